"""`kexport demo`: the repository's small model from preset to text, with the parity table."""

from __future__ import annotations

from pathlib import Path

import click
from kexport.converter.cli_options import json_option


@click.command("demo", short_help="Convert a small story model for every target, prove it, generate.")
@click.option("--workdir", type=click.Path(path_type=Path), default="kexport-demo", show_default=True, help="Where the artifact goes.")
@click.option("--preset", type=click.Path(path_type=Path), help="Another preset directory than the repository's examples/demo_preset.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
def command(workdir: Path, preset: Path | None, quiet: bool, as_json: bool) -> None:
    """Convert the demo model for every target, compare each with KerasHub, let each tell two stories, and show the parity tables."""
    from kexport.converter import demonstration
    from kexport.converter.console import print_json
    from kexport.converter.report import outcome_document, print_outcomes
    from kexport.runtime.contract.progress import reporter_for

    reporter = reporter_for(quiet=quiet)
    outcomes, told = demonstration.run(preset or demonstration.find_preset(), workdir, reporter)
    failed = next((outcome.error for outcome in outcomes if outcome.error is not None), None)
    if as_json:
        print_json({"targets": [outcome_document(outcome) for outcome in outcomes], "texts": told})
    else:
        for story in told:
            click.echo(f"{story.sampler}, the same on {', '.join(story.targets)}: {story.text}\n")
        print_outcomes(outcomes, reporter, quiet=quiet)
        click.echo(f'Next: kexport generate {workdir / "onnx"} "Once upon a time"   or   kexport inspect {workdir / "onnx"}')
    if failed is not None:
        raise failed
