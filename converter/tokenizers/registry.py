"""Which files a Keras tokenizer becomes: one file of this package a kind of tokenizer, each registering itself by the Keras class name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import PieceDecoder

NO_TOKENIZER_HINT = "convert with --no-tokenizer: the artifact then takes and returns token ids"


@dataclass(frozen=True)
class Rendering:
    """One way to write a tokenizer: the file's name and bytes, and how its ids are turned back into text.

    `vendor_class`: the `tokenizer_class` under which vendors' runtimes read the file best ("" = they cannot read it).
    """

    kind: Literal["tokenizers", "sentencepiece", "longest_match"]
    file: str
    content: bytes
    piece_decoder: PieceDecoder | None = None
    vendor_class: str = ""


Renderer = Callable[[Any], list[Rendering]]
_RENDERERS: dict[str, Renderer] = {}


def renders(class_name: str) -> Callable[[Renderer], Renderer]:
    """Registers a function: Keras tokenizer -> its renderings, the preferred first. Subclasses of `class_name` are meant, too."""

    def register(renderer: Renderer) -> Renderer:
        _RENDERERS[class_name] = renderer
        return renderer

    return register


def renderings_of(tokenizer: Any) -> list[Rendering]:
    """All ways to write `tokenizer`, the preferred first.

    Raises:
        UnsupportedError: KX440, no renderer for this class, or options of the tokenizer that no file can carry.
    """
    for ancestor in type(tokenizer).__mro__:
        if ancestor.__name__ in _RENDERERS:
            _refuse_fixed_length(tokenizer)
            return _RENDERERS[ancestor.__name__](tokenizer)
    known = ", ".join(sorted(_RENDERERS))
    raise UnsupportedError("KX440", f"`{type(tokenizer).__name__}` has no export (known: {known})", hint=NO_TOKENIZER_HINT)


def _refuse_fixed_length(tokenizer: Any) -> None:
    if getattr(tokenizer, "sequence_length", None):
        raise UnsupportedError(
            "KX440",
            f"`{type(tokenizer).__name__}` has sequence_length={tokenizer.sequence_length}: it pads and cuts by itself",
            hint="set sequence_length on the preprocessor instead, or " + NO_TOKENIZER_HINT,
        )
    if "int" not in str(tokenizer.compute_dtype):
        raise UnsupportedError(
            "KX440", f"`{type(tokenizer).__name__}` gives {tokenizer.compute_dtype}, not token ids", hint=NO_TOKENIZER_HINT
        )
