"""Measure our runtime next to the vendors' on the same artifacts, and next to KerasHub's own `generate()`.

    python benchmarks/compare.py --workdir DIR --json docs/performance.json --page docs/performance.md

Makes the 125M preset in DIR, converts it for every target, and runs everyone in alternating rounds, each visit a fresh process. Prints tables; writes
JSON, a plot and the page. `--from FILE` makes tables, plot and page of an earlier run's JSON without measuring.

Nothing else should run meanwhile: the run calls itself void if the memory bandwidth varied by more than 15 %. DIR takes 4 GB.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path

import click
from comparison import page, table
from comparison.contestants import Contestant, contestants
from comparison.document import Document, Work, make_document, read_document, write_document
from comparison.machine import this_machine
from comparison.rounds import run_rounds
from comparison.sources import artifact, convert, make_preset, parameter_count
from kexport import targets as kexport_targets
from kexport.converter.options import ALL_TARGETS
from kexport.runtime.contract.manifest_io import read_manifest
from rivals.base import PRESET
from visit import Task

PROMPT_TOKENS, NEW_TOKENS, THREADS, ROUNDS = 512, 64, 2, 7
LEAST_NEW_TOKENS = 3  # a median step needs some
LOGS = "logs"


@click.command(help=__doc__)
@click.option("--workdir", type=click.Path(path_type=Path, file_okay=False), help="Where preset, artifacts and logs are kept.")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Rounds in which everyone runs once.")
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=PROMPT_TOKENS, show_default=True)
@click.option("--new-tokens", type=click.IntRange(min=LEAST_NEW_TOKENS), default=NEW_TOKENS, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=THREADS, show_default=True, help="CPU threads of everyone, the bandwidth probe too.")
@click.option("--targets", default=ALL_TARGETS, show_default=True, help="Names with commas, or all.")
@click.option("--preset", type=click.Path(path_type=Path, exists=True, file_okay=False), help="A preset to use instead of making one.")
@click.option("--rival", "rivals", multiple=True, metavar="NAME", help="Only this rival; may be given several times.")
@click.option("--reuse", is_flag=True, help="Use the artifacts that DIR has already.")
@click.option("--from", "earlier", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Measure nothing: an earlier run's JSON.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the result, every round included.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write the plot, .svg or .png [default: next to the page].")
@click.option("--page", "page_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the page.")
def main(
    workdir: Path | None, targets: str, preset: Path | None, rivals: tuple[str, ...], reuse: bool, earlier: Path | None, json_file: Path | None,
    plot: Path | None, page_file: Path | None, **numbers: int,
) -> None:  # fmt: skip
    if earlier is not None:
        document = read_document(earlier)
    elif workdir is None:
        raise click.UsageError("give --workdir DIR, or --from FILE")
    else:
        document = compare(workdir, _names(targets), preset, rivals, Work(**numbers), reuse=reuse)
    if json_file is not None:
        write_document(json_file, document)
    plot = plot or (page_file.with_suffix(".svg") if page_file else None)
    if plot is not None:
        _draw(document, plot)
    if page_file is not None:
        page.write(page_file, document, os.path.relpath(plot, page_file.parent) if plot else "")
    table.show(document)


def compare(workdir: Path, targets: tuple[str, ...], preset: Path | None, rivals: tuple[str, ...], work: Work, *, reuse: bool) -> Document:
    """Make what is missing, run all rounds, and return the result. Raises click.ClickException where nothing could be measured."""
    machine = this_machine()  # before we load it ourselves
    workdir.mkdir(parents=True, exist_ok=True)
    made = preset or make_preset(workdir)
    conversions = convert(made, targets, workdir, work, reuse=reuse)
    converted = [one.target for one in conversions if not one.error]
    if not converted:
        raise click.ClickException("no target was converted: " + "; ".join(one.error for one in conversions))
    sources: Mapping[str, Path] = {name: artifact(workdir, name) for name in converted} | {PRESET: made}
    vocabulary_size = _vocabulary_size(sources[converted[0]])
    everyone = contestants(sources, workdir, rivals)
    if not everyone:
        raise click.ClickException(f"there is no rival called {' or '.join(rivals)} on these targets")

    def task(one: Contestant) -> Task:
        return Task(one.rival, one.target, one.place, vocabulary_size, work.prompt_tokens, work.new_tokens, work.threads)

    outcomes = run_rounds(everyone, work.rounds, task, workdir / LOGS, lambda text: click.echo(text, err=True))
    try:
        return make_document(
            outcomes, work, machine, conversions, parameters=parameter_count(made), date=_today(), command=command_text(work, targets, rivals, own_preset=preset is not None)
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def command_text(work: Work, targets: tuple[str, ...], rivals: tuple[str, ...] = (), *, own_preset: bool = False) -> str:
    """The command that repeats the run, without this machine's paths."""
    names = ALL_TARGETS if targets == kexport_targets.known() else ",".join(targets)
    chosen = "".join(f" --rival {name}" for name in rivals)
    preset = " --preset PRESET" if own_preset else ""
    return (
        f"python benchmarks/compare.py --workdir DIR --rounds {work.rounds} --prompt-tokens {work.prompt_tokens} "
        f"--new-tokens {work.new_tokens} --threads {work.threads} --targets {names}{preset}{chosen}"
    )


def _names(text: str) -> tuple[str, ...]:
    known = kexport_targets.known()
    names = known if text == ALL_TARGETS else tuple(dict.fromkeys(text.split(",")))
    if unknown := set(names) - set(known):
        raise click.UsageError(f"--targets: there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return names


def _vocabulary_size(directory: Path) -> int:
    logits = next(spec for signature in read_manifest(directory).signatures for spec in signature.outputs if spec.name == "logits")
    return int(logits.shape[-1])


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _draw(document: Document, path: Path) -> None:
    try:
        from comparison.plot import draw

        draw(document, path)
    except ModuleNotFoundError as error:
        raise click.ClickException(f'the plot needs `{error.name}`: pip install "kexport[bench]"') from error


if __name__ == "__main__":
    main()
