"""`kexport bench`: the speed of an artifact, and what part of the memory's speed that is."""

from __future__ import annotations

from pathlib import Path

import click
from kexport.converter.cli_options import artifact_argument, json_option

PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 512, 64, 7


@click.command("bench", short_help="Measure speed and memory of an artifact.")
@artifact_argument
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=PROMPT_TOKENS, show_default=True, help="Length of the prompt.")
@click.option("--new-tokens", type=click.IntRange(min=1), default=NEW_TOKENS, show_default=True, help="Decode steps that are timed.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Rows.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads, of engine and bandwidth alike.  [default: all cores]")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Fresh processes, one after the other.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
def command(
    artifact: Path, prompt_tokens: int, new_tokens: int, batch: int, threads: int | None, rounds: int, quiet: bool, as_json: bool
) -> None:
    """Measure time to the first token, time per token, load time and memory of ARTIFACT, and the memory bandwidth in the same run.

    The floor is the time in which the bytes of one step can be read: weights that are read whole, and the caches' filled positions. It says
    something of models that are larger than the processor's caches.
    """
    from kexport.runtime.contract.errors import UnsupportedError
    from kexport.runtime.contract.manifest_io import read_manifest
    from kexport.runtime.contract.progress import reporter_for

    read_manifest(artifact)
    try:
        from kexport.converter.benchmark.rounds import measure
        from kexport.converter.benchmark.worker import Work
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kexport"):
            raise
        raise UnsupportedError(
            "KX511", f"measuring needs `{error.name}`, which is not installed", hint='pip install "kexport[onnx]"'
        ) from error
    from kexport.converter.console import console, print_json, size_text, table
    from kexport.converter.cpu import usable_threads

    threads = threads or usable_threads()
    report = measure(Work(str(artifact), prompt_tokens, new_tokens, batch, threads), rounds, reporter_for(quiet=quiet))
    if as_json:
        print_json(report.document())
        return
    figures = [
        ("time to first token", "ms", report.ttft_ms),
        ("time per token", "ms", report.ms_per_token),
        ("processor time per token", "ms", report.cpu_ms_per_token),
        ("floor per token", "ms", report.floor_ms_per_token),
        ("fraction of the floor", "", report.fraction_of_floor),
        ("memory bandwidth", "GB/s", report.bandwidth_gb_per_s),
        ("load", "s", report.load_s),
        ("peak resident", "MB", report.peak_rss_mb),
        ("peak anonymous", "MB", report.peak_anon_mb),
    ]
    rows = [
        (name, unit, *(f"{value:.3g}" if value < 1 else f"{value:.2f}" for value in (s.median, s.min, s.max)))
        for name, unit, s in figures
        if s
    ]
    title = f"{artifact}: {prompt_tokens} + {new_tokens} tokens, {batch} rows, {threads} threads, {rounds} rounds"
    console().print(table(title, ("", "", "#median", "#min", "#max"), rows))
    if report.step_bytes:
        click.echo(f"a step reads {size_text(report.step_bytes)}; bandwidth by {report.reader}")
