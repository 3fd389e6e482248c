"""What scripts do with a KerasHub task's `preprocessor`, over the artifact's tokenizer: numpy arrays in and out, the same ids.

lm.preprocessor.generate_preprocess(["a", "b"])         {"token_ids", "padding_mask"}, or the four of a seq2seq model or of split prompts
lm.preprocessor.generate_postprocess(outputs)           the texts
lm.preprocessor.tokenizer("a"), .detokenize(ids)        ids of a text alone, the text of ids
lm.preprocessor = None                                  token ids in and out from here on
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from kexport.runtime.batches import read_text_pair, read_texts
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.prompt_forms import FORMS, WholePrompts
from kexport.runtime.prompts import Prompt
from kexport.runtime.tokenizer import Tokenizer


class TextTokenizer:
    """`preprocessor.tokenizer`: texts to ids, nothing added, and ids to text, nothing left out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, inputs: str | Sequence[str]) -> Any:
        """int32 [tokens] of a text; of several texts a list of such lists. Raises InvalidInputError (KX528) for anything but text."""
        if isinstance(inputs, str):
            return np.asarray(self._tokenizer.encode([inputs])[0], np.int32)
        if not all(isinstance(text, str) for text in inputs):
            raise InvalidInputError("KX528", "a tokenizer takes a text or a list of texts")
        return self._tokenizer.encode(list(inputs))

    tokenize = __call__

    def detokenize(self, inputs: Any) -> Any:
        """The text of ids [tokens], or the texts of rows of them; special tokens as they are spelled."""
        rows = list(inputs)
        if rows and isinstance(rows[0], Iterable):
            return [self.detokenize(row) for row in rows]
        return self._tokenizer.codec.decode([int(identifier) for identifier in rows])

    def id_to_token(self, identifier: int) -> str:
        """How the tokenizer's file spells an id, "" for an id it does not know."""
        return self._tokenizer.codec.piece(int(identifier))


class Preprocessor:
    """`lm.preprocessor`. `sequence_length`: of a padded prompt where none is asked for."""

    def __init__(self, tokenizer: Tokenizer, *, sequence_length: int, is_seq2seq: bool, form: WholePrompts = FORMS["whole"]) -> None:
        self.tokenizer = TextTokenizer(tokenizer)
        self.sequence_length = sequence_length
        self.inner = tokenizer
        self._is_seq2seq, self._form = is_seq2seq, form

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> dict[str, Any]:
        """What `generate()` feeds to the model: int32 ids and boolean masks [batch, length], or [length] of one text.

        A seq2seq model takes texts for its encoder, or a dict of `encoder_text` and `decoder_text`; `sequence_length` is the decoder's.
        Raises InvalidInputError: KX528 for anything but text, KX541 for an artifact that cannot pack.
        """
        if not self._is_seq2seq:
            texts, is_single = read_texts(x)
            arrays = self._form.prompt_arrays(self._form.pack(self.inner, texts, self._form.length(sequence_length, self.sequence_length)))
            return {name: array[0] if is_single else array for name, array in arrays.items()}
        length = sequence_length or self.sequence_length
        encoder_texts, decoder_texts, is_single = read_text_pair(x)
        return {
            **_named("encoder_", self.inner.pack("encoder", encoder_texts), is_single),
            **_named("decoder_", self.inner.pack("decoder", decoder_texts, length), is_single),
        }

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """The text of ids where the mask is True, special tokens left out; a list of texts for a batch."""
        prefix = "decoder_" if self._is_seq2seq else ""
        ids, mask = np.asarray(x[f"{prefix}token_ids"]), np.asarray(x[f"{prefix}padding_mask"]).astype(np.bool_)
        if ids.ndim == 1:
            return self.inner.texts(ids[None], mask[None])[0]
        return self.inner.texts(ids, mask)


def _named(prefix: str, prompt: Prompt, is_single: bool) -> dict[str, Any]:
    ids, mask = (prompt.ids[0], prompt.mask[0]) if is_single else (prompt.ids, prompt.mask)
    return {f"{prefix}token_ids": ids, f"{prefix}padding_mask": mask}
