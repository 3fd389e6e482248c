"""docs/ops.md, from the op table.

    python -m kexport.graphs.ops_page docs/ops.md      write it
    python -m kexport.graphs.ops_page                  print it
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kexport.graphs.ops import OPS, OpSpec, attention
from kexport.graphs.ops.spec import REQUIRED

INTRODUCTION = """\
# The ops of the graph

This page is generated from the op table (`graphs/ops/`) by `python -m kexport.graphs.ops_page docs/ops.md`.

A graph is made of these ops only. Each entry of the table is at once the grammar (`kexport.graphs.verify`), the rule for types, the
meaning in numpy (`kexport.graphs.interpreter`) and a line of this page. An input with `?` may be left out, one with `*` repeats.
An attribute without a default must be given. Sizes in attributes may be names (`batch`, `sequence`, `total`, `encoder_sequence`).

"""
INTRINSICS = """\
## Intrinsics

What decides speed and portability is one node each. A target may take an intrinsic natively; for one that does not,
`kexport.graphs.passes.decompose` rebuilds it from plain ops (`cache_write` and `cache_read` excepted: they are what is left of a cache).

"""
PLAIN = """\
## Plain ops

"""
ATTENTION = """\
## attention, in full

"""
HEADER = "| op | inputs | attributes | meaning |\n|---|---|---|---|\n"


def page() -> str:
    """The page as Markdown."""
    intrinsics = [spec for spec in OPS.values() if spec.intrinsic]
    plain = [spec for spec in OPS.values() if not spec.intrinsic]
    return INTRODUCTION + INTRINSICS + _table(intrinsics) + "\n" + PLAIN + _table(plain) + "\n" + ATTENTION + _formula()


def _table(specs: list[OpSpec]) -> str:
    return HEADER + "".join(_row(spec) for spec in sorted(specs, key=lambda spec: spec.name))


def _row(spec: OpSpec) -> str:
    inputs = ", ".join(f"`{name}`" for name in spec.inputs)
    attrs = ", ".join(_attribute(name, default) for name, default in spec.attrs.items())
    return f"| `{spec.name}` | {inputs} | {attrs} | {spec.summary.replace('|', chr(92) + '|')} |\n"


def _attribute(name: str, default: Any) -> str:
    return f"`{name}`" if default is REQUIRED else f"`{name}` = {default}"


def _formula() -> str:
    """The attention module's own text: its indented block is the formula."""
    title, _, body = (attention.__doc__ or "").partition("\n")
    return f"{title.partition(': ')[2].capitalize()}\n{body}".rstrip() + "\n"


def main(arguments: list[str]) -> None:
    """Write to the path given, or print."""
    if arguments:
        Path(arguments[0]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main(sys.argv[1:])
