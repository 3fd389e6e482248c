"""`kexport convert SOURCE --target onnx -o OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from kexport.converter.cli_options import IntegerList, NameList

HELP = """Convert a KerasHub model into an artifact that runs without Keras, and prove it.

SOURCE is a KerasHub preset id, kaggle://..., hf://..., a preset directory, a Hugging Face model directory, or a .keras file.
OUT appears only when every file is written and the artifact gave the original's tokens. With several targets OUT holds one artifact for
each, and each appears whole or not at all."""


@click.command(help=HELP)
@click.argument("source")
@click.option("--target", default="onnx", show_default=True, metavar="NAME", help="What to convert to: a name, several with commas, or all; `kexport list` shows them.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="OUT", help="The directory to make.")
@click.option("--dtype", default="float32", show_default=True, metavar="float32|float16|bfloat16", help="How weights are stored; compute is float32.")
@click.option("--max-length", type=int, metavar="N", help="The longest sequence served [default: the position table, else the preprocessor's, at least 2048].")
@click.option("--task", metavar="causal-lm|seq2seq-lm|backbone", help="What to convert [default: the source's own task].")
@click.option("--no-tokenizer", is_flag=True, help="Leave the tokenizer out: the artifact takes token ids.")
@click.option("--verify", metavar="full|stream|none", help="How deep to compare with the original [default: by available memory].")
@click.option("--no-verify", is_flag=True, help="The same as --verify none.")
@click.option("--keep-failed", is_flag=True, help="Keep a refused artifact as OUT.failed.")
@click.option("--trust-source", is_flag=True, help="Run code that the source brings along, and follow its links. Only for sources you trust.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option("--quiet", is_flag=True, help="No progress, no notes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--prefill-buckets", type=IntegerList(), metavar="N,N", help="Fixed-shape targets: prompt lengths with a signature of their own.")
@click.option("--package", metavar="tflite|litertlm", help="TFLite: model.tflite, or model.litertlm for LiteRT-LM.")
@click.option("--signatures", type=NameList(), metavar="NAME,NAME", help="What to give beyond generating: hidden_states (contrastive search), score, score_layers, score_gradients, embed.")
@click.option("--text-only", is_flag=True, help="Leave out what the model does with images.")
@click.option("--lora", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="An adapter: a file of save_lora_weights(). Several: once for each, with --lora-mode separate.")
@click.option("--lora-mode", metavar="merge|separate", help="Merge the adapter, or keep it apart to choose it at run time (onnx, openvino)  [default: merge].")
@click.option("--upstream-fix", is_flag=True, help="GPT-NeoX: correct what KerasHub's generate() does wrong; proven against its uncached forward instead.")
@click.option("--weights", hidden=True)
@click.option("--batch-size", type=int, hidden=True)
@click.option("--opset-only", is_flag=True, hidden=True)
@click.option("--layout", hidden=True)
@click.option("--low-memory", is_flag=True, hidden=True)
def command(source: str, target: str, output: Path, no_tokenizer: bool, no_verify: bool, quiet: bool, as_json: bool, **given: Any) -> None:
    from kexport.converter.console import print_json
    from kexport.converter.conversion import convert_all
    from kexport.converter.report import outcome_document, print_outcomes
    from kexport.runtime.contract.errors import UsageError
    from kexport.runtime.contract.progress import reporter_for

    if no_verify and given["verify"] not in (None, "none"):
        raise UsageError("KX104", f"--no-verify and --verify {given['verify']} contradict each other", hint="give one of them")
    given["verify"] = "none" if no_verify else given["verify"]
    reporter = reporter_for(quiet=quiet)
    outcomes = convert_all(source, target, output, reporter=reporter, tokenizer=not no_tokenizer, **given)
    failed = next((outcome.error for outcome in outcomes if outcome.error is not None), None)
    if len(outcomes) == 1 and failed is not None:
        raise failed
    if as_json:
        documents = [outcome_document(outcome) for outcome in outcomes]
        print_json(documents[0] if len(documents) == 1 else documents)
    else:
        print_outcomes(outcomes, reporter, quiet=quiet)
    if failed is not None:
        raise failed
