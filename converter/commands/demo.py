"""`kexport demo`: the repository's small model from preset to text, with the parity table."""

from __future__ import annotations

from pathlib import Path

import click
from kexport.converter.cli_options import json_option


@click.command("demo", short_help="Convert a small story model, prove it, generate from it.")
@click.option("--workdir", type=click.Path(path_type=Path), default="kexport-demo", show_default=True, help="Where the artifact goes.")
@click.option("--preset", type=click.Path(path_type=Path), help="Another preset directory than the repository's examples/demo_preset.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
def command(workdir: Path, preset: Path | None, quiet: bool, as_json: bool) -> None:
    """Convert the demo model to ONNX, compare it with KerasHub, generate two stories, and show the parity table."""
    from kexport.converter import demonstration
    from kexport.converter.console import console, print_json
    from kexport.converter.inspecting import parity_table, verdict_words
    from kexport.runtime.contract.progress import reporter_for

    artifact, told = demonstration.run(preset or demonstration.find_preset(), workdir, reporter_for(quiet=quiet))
    certificate = artifact.manifest.parity
    if as_json:
        print_json({"artifact": str(artifact.directory), "parity": certificate, "texts": told})
        return
    for story in told:
        click.echo(f"{story.sampler}: {story.text}\n")
    console().print(parity_table(certificate))
    click.echo(verdict_words(certificate))
    click.echo(f'Next: kexport generate {artifact.directory} "Once upon a time"   or   kexport inspect {artifact.directory}')
