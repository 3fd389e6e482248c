"""Whether ONNX Runtime GenAI's own tokenizer reads the written files the same way, for the manifest's `runtimes`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kexport.converter.tokenizers.export import CONFIG_FILE, SPECIAL_TOKENS_FILE
from kexport.converter.tokenizers.proof_strings import ORDINARY

_READ_FILES = ("tokenizer.json", CONFIG_FILE, SPECIAL_TOKENS_FILE)
_SHOWN_STRINGS = 3
_MINIMAL_CONFIG = {"model": {"type": "decoder", "vocab_size": 1, "context_length": 1, "decoder": {"filename": "model.onnx"}}, "search": {}}


def vendor_tokenizer_difference(directory: Path | str, fixture: str) -> str:
    """Compares `onnxruntime_genai`'s tokenizer with the fixture's ids: "" if all are equal, else what differs.

    `directory` holds the tokenizer files; `fixture` is the fixture's file name in it. Ordinary strings that differ are named first,
    then hard ones. Also says so when the package is not installed or refuses the files.
    """
    directory = Path(directory)
    pairs = json.loads((directory / fixture).read_text(encoding="utf-8"))["pairs"]
    try:
        import onnxruntime_genai as genai
    except ImportError:
        return "not checked: onnxruntime-genai is not installed"
    if not (directory / "tokenizer.json").exists():
        return "there is no tokenizer.json for it to read"
    with tempfile.TemporaryDirectory() as temporary:
        _copy_what_it_reads(directory, Path(temporary))
        try:
            tokenizer = genai.Tokenizer(temporary)
            differing = [pair["text"] for pair in pairs if _encode(tokenizer, pair["text"]) != pair["ids"]]
        except RuntimeError as error:
            return f"its tokenizer refuses the files: {error}"
    return _report(differing, len(pairs))


def _copy_what_it_reads(directory: Path, target: Path) -> None:
    for name in _READ_FILES:
        if (directory / name).exists():
            shutil.copy(directory / name, target / name)
    (target / "genai_config.json").write_text(json.dumps(_MINIMAL_CONFIG))


def _encode(tokenizer: object, text: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(text)]  # type: ignore[attr-defined]


def _report(differing: Iterable[str], compared: int) -> str:
    differing = list(differing)
    if not differing:
        return ""
    ordinary = [text for text in differing if text in ORDINARY]
    shown = ", ".join(repr(text) for text in (ordinary + [text for text in differing if text not in ORDINARY])[:_SHOWN_STRINGS])
    kind = f"{len(ordinary)} ordinary" if ordinary else "no ordinary"
    return f"its tokenizer gives other ids for {len(differing)} of {compared} strings ({kind} ones), e.g. {shown}"
