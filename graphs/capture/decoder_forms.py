"""In which form an encoder-decoder task passes caches to its decoder, found by letting the task build some of different sizes.

    keywords   two stacked caches by name, the cross cache written where an update index for it is given: Bart, T5
    pair       one tuple of both, the cross cache None where the decoder is to make it: T5Gemma
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import tensorflow as tf
from kexport.graphs.capture.cache_forms import empty_tensor, open_spec
from kexport.graphs.capture.spy import call_arguments
from kexport.runtime.contract.errors import UnsupportedError

DECODER = "call_decoder_with_cache"
PAIR = "cache"
SIZES = ((1, 6), (2, 9))  # rows and encoder tokens of the two caches
MORE = 3  # tokens of a decoder row beyond those of an encoder row


class DecoderForm(ABC):
    """`hidden`, `self_cache`, `cross_cache`: specs of what the decoder takes, open dims None."""

    encoder_output: ClassVar[str]  # the decoder's argument

    def __init__(self, task: Any) -> None:
        self.task = task
        first, second = (self._arguments(batch, length) for batch, length in SIZES)
        self.hidden = open_spec(first[self.encoder_output], second[self.encoder_output], self.encoder_output)
        pairs = zip(self.caches(first), self.caches(second), ("self_cache", "cross_cache"), strict=True)
        self.self_cache, self.cross_cache = (open_spec(*pair) for pair in pairs)

    @abstractmethod
    def caches(self, arguments: dict[str, Any]) -> tuple[Any, Any]:
        """The self and the cross cache among the decoder's arguments."""

    @abstractmethod
    def encode(self, ids: Any, mask: Any) -> Any:
        """The encoder's hidden states."""

    @abstractmethod
    def decode(self, hidden: Any, mask: Any, ids: Any, start: Any, self_cache: Any, cross_cache: Any, *, fill: bool) -> tuple[Any, Any, Any]:
        """Logits, hidden states and the cross cache of a decoder's call; the latter is made of the encoder's hidden states where `fill`."""

    @abstractmethod
    def _encoded(self, hidden: Any, mask: Any) -> Any:
        """What the task's `call_encoder` returns."""

    def whole(self, encoder_ids: Any, encoder_mask: Any, ids: Any) -> tuple[Any, Any]:
        """Logits and hidden states of whole rows, caches included."""
        hidden = self.encode(encoder_ids, encoder_mask)
        self_cache, cross_cache = (empty_tensor(spec, *rows.shape) for spec, rows in ((self.self_cache, ids), (self.cross_cache, encoder_ids)))
        logits, states, _ = self.decode(hidden, encoder_mask, ids, 0, self_cache, cross_cache, fill=True)
        return logits, states

    def _arguments(self, batch: int, length: int) -> dict[str, Any]:
        """What the task passes to its decoder for encoder rows of `length` and decoder rows a little longer; no layer runs."""
        task = self.task
        ids, mask = tf.ones([batch, length], tf.int32), tf.ones([batch, length], tf.bool)
        decoder_ids, decoder_mask = tf.ones([batch, length + MORE], tf.int32), tf.ones([batch, length + MORE], tf.bool)
        available = {"encoder_token_ids": ids, "encoder_padding_mask": mask, "decoder_token_ids": decoder_ids, "decoder_padding_mask": decoder_mask}
        size = getattr(task.backbone, "encoder_hidden_dim", None) or task.backbone.hidden_dim
        encoded = self._encoded(tf.zeros([batch, length, size], task.compute_dtype), mask)
        object.__setattr__(task, "call_encoder", lambda *args, **kwargs: encoded)
        try:
            return call_arguments(task, "_build_cache", DECODER, available)
        finally:
            object.__delattr__(task, "call_encoder")


class Keywords(DecoderForm):
    """See the module."""

    encoder_output = "encoder_hidden_states"

    def caches(self, arguments: dict[str, Any]) -> tuple[Any, Any]:
        return arguments["self_attention_cache"], arguments["cross_attention_cache"]

    def encode(self, ids: Any, mask: Any) -> Any:
        return self.task.call_encoder(token_ids=ids, padding_mask=mask)

    def decode(self, hidden: Any, mask: Any, ids: Any, start: Any, self_cache: Any, cross_cache: Any, *, fill: bool) -> tuple[Any, Any, Any]:
        logits, states, _, cross_cache = self.task.call_decoder_with_cache(
            encoder_hidden_states=hidden,
            encoder_padding_mask=mask,
            decoder_token_ids=ids,
            self_attention_cache=self_cache,
            self_attention_cache_update_index=start,
            cross_attention_cache=cross_cache,
            cross_attention_cache_update_index=0 if fill else None,
        )
        return logits, states, cross_cache

    def _encoded(self, hidden: Any, mask: Any) -> Any:
        return hidden


class Pair(DecoderForm):
    """See the module. The cross cache has the heads of the self cache: both are the decoder's."""

    encoder_output = "encoder_output"

    def caches(self, arguments: dict[str, Any]) -> tuple[Any, Any]:
        return arguments[PAIR][0], arguments[PAIR][0]

    def encode(self, ids: Any, mask: Any) -> Any:
        return self.task.call_encoder(token_ids=ids, padding_mask=mask)[0]

    def decode(self, hidden: Any, mask: Any, ids: Any, start: Any, self_cache: Any, cross_cache: Any, *, fill: bool) -> tuple[Any, Any, Any]:
        logits, states, (_, cross_cache) = self.task.call_decoder_with_cache(
            decoder_token_ids=ids,
            decoder_padding_mask=None,
            cache=(self_cache, None if fill else cross_cache),
            cache_update_index=start,
            encoder_output=hidden,
            encoder_padding_mask=mask,
        )
        return logits, states, cross_cache

    def _encoded(self, hidden: Any, mask: Any) -> Any:
        return hidden, mask


def decoder_form(task: Any) -> DecoderForm:
    """The form of `task` (a keras_hub Seq2SeqLM).

    Raises:
        UnsupportedError: KX202, the decoder takes its caches in another way.
    """
    decoder = getattr(type(task), DECODER, None)
    taken = set(inspect.signature(decoder).parameters) if decoder is not None else set()
    form = next((form for form in (Keywords, Pair) if form.encoder_output in taken), None)
    if form is None or not hasattr(task, "_build_cache"):
        raise UnsupportedError("KX202", f"{type(task).__name__} passes its caches in a form that kexport does not capture yet", hint="see `kexport list`")
    return form(task)
