"""`kexport plan SOURCE --target onnx`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(help="Say what a conversion would do: sizes, memory, disk, proof, refusals. Reads small files only.")
@click.argument("source")
@click.option("--target", default="onnx", show_default=True, metavar="NAME", help="What to convert to.")
@click.option("--dtype", default="float32", show_default=True, metavar="float32|float16|bfloat16", help="How weights would be stored.")
@click.option("--max-length", type=int, metavar="N", help="The longest sequence to serve.")
@click.option("--task", metavar="causal-lm|seq2seq-lm", help="What to convert.")
@click.option("--verify", metavar="full|stream|none", help="How deep the proof would be.")
@click.option("--no-tokenizer", is_flag=True, help="Without the tokenizer.")
@click.option("--trust-source", is_flag=True, help="Follow the source's links.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    source: str, target: str, dtype: str, max_length: int | None, task: str | None, verify: str | None, no_tokenizer: bool, trust_source: bool, as_json: bool
) -> None:
    from kexport.converter.console import print_json
    from kexport.converter.options import make_options
    from kexport.converter.plan import check_resources, make_plan
    from kexport.converter.report import plan_document, print_plan
    from kexport.converter.sources import open_source

    options = make_options(
        target=target, dtype=dtype, max_length=max_length, task=task, verify=verify, tokenizer=not no_tokenizer, trust_source=trust_source
    )
    opened = open_source(source, task=task, trust_source=trust_source, tokenizer=not no_tokenizer)
    plan = make_plan(opened, options)
    if as_json:
        print_json(plan_document(plan))
    else:
        print_plan(plan)
    check_resources(plan, Path.cwd())
