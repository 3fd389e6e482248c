"""`kexport list`: the families and targets that are supported."""

from __future__ import annotations

import click
from kexport.converter.cli_options import json_option


@click.command("list", short_help="Show the model families and targets that are supported.")
@json_option
def command(as_json: bool) -> None:
    """Show the model families that are proven token by token, the classes that are refused and why, and the targets."""
    from kexport.converter.console import console, print_json, table
    from kexport.converter.listing import support

    found = support()
    if as_json:
        print_json(found)
        return
    screen = console()
    rows = [(family["name"], ", ".join(family["classes"]), family["task"], ", ".join(family["targets"])) for family in found["families"]]
    screen.print(table("Families", ("family", "KerasHub classes", "task", "proven targets"), rows))
    refused = [(one["class"], one["reason"], one["instead"]) for one in found["refused"]]
    screen.print(table("Refused", ("KerasHub class", "it", "instead"), refused))
    targets = [(target["name"], "yes" if target["engine"] else "no") for target in found["targets"]]
    screen.print(table("Targets", ("target", "engine"), targets))
