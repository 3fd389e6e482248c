"""`kexport inspect`: what an artifact is, from its manifest. Runs in an install without any extra."""

from __future__ import annotations

from pathlib import Path

import click
from kexport.converter.cli_options import artifact_argument, json_option


@click.command("inspect", short_help="Show what an artifact is: signatures, caches, operators, certificate.")
@artifact_argument
@json_option
def command(artifact: Path, as_json: bool) -> None:
    """Show signatures, caches, operators, files, runtimes and the parity certificate of ARTIFACT."""
    from kexport.converter import inspecting
    from kexport.converter.console import console, print_json
    from kexport.runtime.contract.manifest_io import read_manifest

    manifest = read_manifest(artifact)
    if as_json:
        print_json(inspecting.overview(artifact, manifest))
        return
    screen = console()
    for shown in inspecting.tables(artifact, manifest):
        screen.print(shown)
