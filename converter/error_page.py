"""The page of all error codes, docs/errors.md, read off the code: `python -m kexport.converter.error_page docs/errors.md`.

Every place that makes an error of ours is found in the syntax trees of the installed rooms: its code, its class, its message and hint with
placeholders as <names>. A test compares the page with the code and holds each code to one class of error.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kexport.runtime.contract import errors

ROOMS = ("converter", "graphs", "runtime", "targets")
CODE = re.compile(r"KX\d{3}")
GROUPS = {
    "KX1": "Usage",
    "KX2": "Capture, targets and what is not built",
    "KX3": "Parity",
    "KX4": "Sources and tokenizers",
    "KX5": "Artifacts and the runtime",
    "KX6": "Resources",
    "KX9": "Internal: bugs",
}
ERROR_CLASSES = {name: thing for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, errors.KexportError)}
# Helpers that make an error of a code they are given: name -> (the error's class, positions of code, message and hint).
HELPERS = {"explained": ("InvalidInputError", 0, 1, 2)}
_UNKNOWN = "…"
_HEAD = """# Error codes

An error is one code, one sentence and a way out; the exit code follows from its kind. Codes keep their meaning once released.
This page is made from the code by `python -m kexport.converter.error_page docs/errors.md`; `<names>` stand for what the message names.
"""


@dataclass(frozen=True, order=True)
class Use:
    """One place that makes an error. `class_name` "" where it could not be told."""

    code: str
    class_name: str
    message: str
    hint: str
    file: str


def uses() -> list[Use]:
    """All places in all rooms, in the order of their codes."""
    return sorted({use for room in ROOMS for path in sorted(_folder(room).rglob("*.py")) for use in _uses_in(path, room)})


def page() -> str:
    """The whole page, Markdown."""
    found = uses()
    parts = [_HEAD]
    for prefix, title in GROUPS.items():
        codes = sorted({use.code for use in found if use.code.startswith(prefix)})
        if codes:
            parts.append(f"## {title}\n\n| code | exit | kind | message | hint |\n|---|---|---|---|---|")
            parts += [_row([use for use in found if use.code == code]) for code in codes]
            parts.append("")
    return "\n".join(parts)


def _row(same_code: list[Use]) -> str:
    """One code: its messages and hints, each once."""
    first = same_code[0]
    kind = ERROR_CLASSES[first.class_name]
    messages = "<br>".join(dict.fromkeys(_cell(use.message) for use in same_code if use.message))
    hints = "<br>".join(dict.fromkeys(_cell(use.hint) for use in same_code if use.hint))
    return f"| {first.code} | {kind.exit_code} | {first.class_name} | {messages} | {hints} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _folder(room: str) -> Path:
    spec = importlib.util.find_spec(f"kexport.{room}")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _uses_in(path: Path, room: str) -> Iterator[Use]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    file = f"{room}/{path.relative_to(_folder(room)).as_posix()}"
    constants = _assignments(tree.body)
    yield from _walk(tree, constants, file)


def _walk(node: ast.AST, names: dict[str, ast.expr], file: str) -> Iterator[Use]:
    """Calls below `node`; `names`: what simple names stand for there."""
    for child in ast.iter_child_nodes(node):
        inner = names | _assignments(ast.walk(child)) if isinstance(child, ast.FunctionDef) else names
        if isinstance(child, ast.Call) and (use := _use(child, inner, file)) is not None:
            yield use
        yield from _walk(child, inner, file)


def _assignments(statements: Iterator[ast.AST] | list[ast.stmt]) -> dict[str, ast.expr]:
    return {
        target.id: statement.value for statement in statements if isinstance(statement, ast.Assign) for target in statement.targets if isinstance(target, ast.Name)
    }  # fmt: skip


def _use(call: ast.Call, names: dict[str, ast.expr], file: str) -> Use | None:
    function = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
    class_name, *places = HELPERS.get(function, (function if function in ERROR_CLASSES else "", 0, 1, 2))
    texts = [_text(call.args[place], names) if place < len(call.args) else "" for place in places]
    if not CODE.fullmatch(texts[0]):
        return None
    hint = next((_text(keyword.value, names) for keyword in call.keywords if keyword.arg == "hint"), texts[2])
    return Use(texts[0], class_name, texts[1], hint, file)


def _text(node: ast.expr, names: dict[str, ast.expr], depth: int = 0) -> str:
    """The text of an expression, as far as it stands in the code."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, names, depth) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _placeholder(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, names, depth) + _text(node.right, names, depth)
    if isinstance(node, ast.Name) and node.id in names and depth < len(names):
        return _text(names[node.id], names, depth + 1)
    return _UNKNOWN


def _placeholder(value: ast.expr) -> str:
    """`<name>` for a simple name or an attribute, else …"""
    if isinstance(value, ast.Name):
        return f"<{value.id.strip('_').replace('_', ' ')}>"
    return f"<{value.attr.strip('_').replace('_', ' ')}>" if isinstance(value, ast.Attribute) else _UNKNOWN


def main(arguments: list[str]) -> None:
    """Write to the path given, or print."""
    if arguments:
        Path(arguments[0]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main(sys.argv[1:])
