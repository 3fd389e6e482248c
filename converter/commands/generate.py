"""`kexport generate`: continue prompts with an artifact. Needs an engine's extra, no Keras."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
from kexport.converter.cli_options import IntegerList, artifact_argument, json_option, threads_option

SAMPLERS = ("greedy", "top_k", "top_p", "random", "beam", "contrastive")
BUILT_SAMPLERS = ", ".join(SAMPLERS)
_STANDARD_INPUT = "-"
_SAMPLER_ARGUMENTS = ("k", "p", "temperature", "num_beams", "alpha", "seed")


@click.command("generate", short_help="Continue prompts with an artifact.")
@artifact_argument
@click.argument("prompts", nargs=-1)
@click.option("--max-length", type=click.IntRange(min=1), help="Prompt and new tokens together.  [default: the original's]")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="New tokens of each prompt, instead of --max-length.")
@click.option("--sampler", type=click.Choice(SAMPLERS), metavar="NAME", help=f"{BUILT_SAMPLERS}.  [default: the original's]")
@click.option("--k", type=int, help="Sample among the k likeliest tokens.")
@click.option("--p", type=float, help="Sample among the likeliest tokens that make up p.")
@click.option("--temperature", type=float, help="Divides the logits.")
@click.option("--num-beams", type=int, help="Beams of the beam sampler.")
@click.option("--alpha", type=float, help="How much contrastive search wants the next token to be unlike those before.")
@click.option("--seed", type=int, help="Makes sampling repeatable.")
@click.option("--stop", "stop_texts", multiple=True, metavar="TEXT", help="End before TEXT. Repeatable.")
@click.option("--stop-token-ids", type=IntegerList(), metavar="IDS", help="End at any of these ids.  [default: the original's]")
@click.option("--strip-prompt", is_flag=True, help="Leave the prompt out of the result.")
@click.option("--stream", is_flag=True, help="Print text as it comes.")
@click.option("--chat", is_flag=True, help="Each prompt is what a user says; print the model's answer.")
@click.option("--token-ids", type=IntegerList(), multiple=True, metavar="IDS", help='A prompt of ids, as "1 2 3"; prints ids. Repeatable.')
@click.option(
    "--decoder-token-ids", type=IntegerList(), metavar="IDS", help="With --token-ids: where the decoder of a seq2seq model starts."
)
@click.option("--check", is_flag=True, help="Compare all files and the tokenizer with what was recorded at conversion first.")
@click.option("--lora", metavar="NAME", help="Use the adapter NAME that the artifact brings.  [default: none]")
@click.option("--image", "images", multiple=True, type=click.Path(), metavar="FILE", help="An image of the prompt, in the order in which it names them. Repeatable.")
@threads_option
@json_option
def command(artifact: Path, prompts: tuple[str, ...], stream: bool, threads: int | None, as_json: bool, **options: Any) -> None:
    """Continue PROMPTS with the model in ARTIFACT, as KerasHub's generate() does.

    Texts are printed to standard output, one after the other. The prompt `-` stands for standard input, one prompt a line.
    """
    from kexport.runtime.contract.errors import UnsupportedError, UsageError

    arguments = {name: value for name in _SAMPLER_ARGUMENTS if (value := options.pop(name)) is not None}
    if stream and (as_json or options["token_ids"]):
        raise UsageError("KX121", "--stream prints text as it comes: not with --json or --token-ids", hint="leave one of them out")
    try:
        from kexport.converter import generating
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kexport"):
            raise
        message = f"generating needs `{error.name}`, which is not installed"
        raise UnsupportedError("KX511", message, hint='pip install "kexport[onnx]"') from error

    request = generating.Request(prompts=_read_prompts(prompts), sampler_arguments=arguments, **options)
    with generating.open_model(artifact, request, threads) as model:
        sampler = generating.describe_sampler(model.sampler)
        click.echo(f"sampler: {sampler}", err=True)
        given: list[Any] = [*request.token_ids, *request.prompts]
        request = generating.as_chat(model, request)
        started = time.perf_counter()
        if stream:
            _stream(generating, model, request)
            return
        key = "token_ids" if request.token_ids else "text"
        results: list[Any] = generating.generate_ids(model, request) if request.token_ids else generating.generate_texts(model, request)
        seconds = time.perf_counter() - started
    if as_json:
        from kexport.converter.console import print_json

        rows = [{"prompt": prompt, key: result} for prompt, result in zip(given, results, strict=True)]
        print_json({"artifact": str(artifact), "sampler": sampler, "seconds": round(seconds, 3), "results": rows})
        return
    for result in results:
        click.echo(" ".join(map(str, result)) if request.token_ids else result)


def _read_prompts(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """The prompts, `-` replaced by the lines of standard input; empty lines are none."""
    read: list[str] = []
    for prompt in prompts:
        read += [line for line in sys.stdin.read().splitlines() if line] if prompt == _STANDARD_INPUT else [prompt]
    return tuple(read)


def _stream(generating: Any, model: Any, request: Any) -> None:
    """Each prompt's text in pieces, a line break after it."""
    for prompt in request.prompts:
        generating.stream_text(model, prompt, request, say=lambda piece: click.echo(piece, nl=False))
        click.echo()
