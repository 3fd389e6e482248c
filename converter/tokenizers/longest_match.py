"""Tokenizers that take the longest known bytes (RWKV): the family's own vocabulary file, as it is."""

from __future__ import annotations

from typing import Any

from kexport.converter.tokenizers.registry import NO_TOKENIZER_HINT, Rendering, renders
from kexport.runtime.contract.errors import UnsupportedError

FILE = "vocabulary.txt"


@renders("RWKVTokenizer")
def render_longest_match(tokenizer: Any) -> list[Rendering]:
    """The lines that the tokenizer was made from. KerasHub's model knows padding by the id 0, whatever `pad_token_id` says."""
    if tokenizer.pad_token_id != 0:
        raise UnsupportedError(
            "KX440",
            f"`{type(tokenizer).__name__}` pads with {tokenizer.pad_token_id}; only 0 never becomes text",
            hint="leave pad_token_id at 0, or " + NO_TOKENIZER_HINT,
        )
    content = "".join(line.rstrip("\n") + "\n" for line in tokenizer.get_vocabulary()).encode()
    return [Rendering(kind="longest_match", file=FILE, content=content)]
