"""`kexport doctor`: what is installed, what is missing and how to get it, and what this machine has."""

from __future__ import annotations

from pathlib import Path

import click
from kexport.converter.cli_options import json_option


@click.command("doctor", short_help="Show what is installed, what is missing, and what the machine has.")
@json_option
def command(as_json: bool) -> int:
    """Show versions and extras, the processor, free memory and disk, and combinations of packages known not to work.

    The exit code is 4 where there is such a combination, else 0: an extra that is not installed is no fault.
    """
    import dataclasses

    from kexport.converter.console import console, print_json, size_text, table
    from kexport.converter.diagnosis import diagnose
    from kexport.runtime.contract.errors import UnsupportedError

    found = diagnose(Path.cwd())
    exit_code = UnsupportedError.exit_code if found.problems else 0
    if as_json:
        extras = [dataclasses.asdict(extra) | {"installed": extra.is_installed, "install": extra.install_line} for extra in found.extras]
        print_json(dataclasses.asdict(found) | {"extras": extras})
        return exit_code
    machine = [
        ("kexport", found.kexport),
        ("Python", found.python),
        ("system", found.system),
        ("processor", " ".join(found.cpu)),
        ("threads", found.threads),
        ("memory available", size_text(found.memory_available) if found.memory_available else "unknown"),
        ("disk free here", size_text(found.disk_free)),
    ]
    screen = console()
    screen.print(table("This machine", ("", ""), machine))
    rows = []
    for extra in found.extras:
        missing = ", ".join(package.name for package in extra.packages if not package.is_fine)
        present = ", ".join(f"{package.name} {package.found}" for package in extra.packages if package.found)
        rows.append((extra.name, "yes" if extra.is_installed else "no", present, missing, "" if extra.is_installed else extra.install_line))
    screen.print(table("Extras", ("extra", "installed", "found", "missing", "get it"), rows))
    for problem in found.problems:
        click.echo(f"problem: {problem}")
    for note in found.notes:
        click.echo(f"note: {note}")
    return exit_code
