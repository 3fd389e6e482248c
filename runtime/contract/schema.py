"""docs/kexport.schema.json, the JSON Schema of the manifest, from its records.

    python -m kexport.runtime.contract.schema docs/kexport.schema.json      write it
    python -m kexport.runtime.contract.schema                               print it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from .manifest import FILE_NAME, FORMAT_VERSION, Manifest

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INDENT = 2


def schema_text() -> str:
    """The schema as JSON text with sorted keys."""
    schema = {"$schema": _DIALECT, "title": f"{FILE_NAME}, format version {FORMAT_VERSION}", **msgspec.json.schema(Manifest)}
    return json.dumps(schema, indent=_INDENT, sort_keys=True) + "\n"


def main(arguments: list[str]) -> None:
    """Write to the path given, or print."""
    if arguments:
        Path(arguments[0]).write_text(schema_text(), encoding="utf-8")
    else:
        sys.stdout.write(schema_text())


if __name__ == "__main__":
    main(sys.argv[1:])
