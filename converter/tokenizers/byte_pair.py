"""Byte-level BPE (Bloom, Bart, GPT-2, ...): the file is the very object that KerasHub encodes with, written deterministically."""

from __future__ import annotations

import json
from typing import Any

from kexport.converter.tokenizers.registry import NO_TOKENIZER_HINT, Rendering, renders
from kexport.runtime.contract.errors import UnsupportedError

FILE = "tokenizer.json"


@renders("BytePairTokenizer")
def render_byte_pair(tokenizer: Any) -> list[Rendering]:
    """The `tokenizers` object inside the Keras tokenizer, its added tokens sorted by id (KerasHub keeps them in a set)."""
    if not hasattr(tokenizer, "_maybe_initialized_tokenizers"):
        raise UnsupportedError(
            "KX440",
            "this keras-hub keeps no `tokenizers` object in its byte-pair tokenizers",
            hint="install keras-hub>=0.29, or " + NO_TOKENIZER_HINT,
        )
    tokenizer._maybe_initialized_tokenizers()
    document = json.loads(tokenizer._tokenizer.to_str())
    document["added_tokens"].sort(key=lambda token: token["id"])
    content = json.dumps(document, ensure_ascii=False, indent=1).encode()
    return [Rendering(kind="tokenizers", file=FILE, content=content, vendor_class="PreTrainedTokenizerFast")]
