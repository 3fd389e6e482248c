"""Capture an encoder-decoder model: two graphs from stock KerasHub methods.

    encode   encoder_token_ids, encoder_padding_mask -> hidden, and cross.<layer>.key|value for every decoder layer,
             each [batch, encoder_sequence, heads, head_dim]: what stock writes to its cross-attention cache
    extend   token_ids, positions, encoder_padding_mask -> logits; slots self.<layer> grow, cross.<layer> are read

The decoder does not read the encoder's hidden states once the cross caches are filled, so they are no input of `extend`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from kexport.graphs.capture.cache_forms import stacked_slots
from kexport.graphs.capture.causal import finish, wanted
from kexport.graphs.capture.importing import import_function
from kexport.graphs.capture.intercept import intercepting
from kexport.graphs.capture.slots import find_cache
from kexport.graphs.capture.spy import call_arguments
from kexport.graphs.capture.trace import Trace
from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, SEQUENCE
from kexport.graphs.ir import Graph
from kexport.graphs.passes.classify_masks import START_INDEX
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import UnsupportedError

KEYWORD_CACHES = ("self_attention_cache", "cross_attention_cache")
PARTS = ("key", "value")
ENCODER_IDS = "encoder_token_ids"
ENCODER_MASK = "encoder_padding_mask"


def _decoder_arguments(task: Any, batch: int, length: int) -> dict[str, Any]:
    """What the task passes to its decoder for encoder rows of `length` and decoder rows three longer."""
    ids, mask = tf.ones([batch, length], tf.int32), tf.ones([batch, length], tf.bool)
    decoder_ids, decoder_mask = tf.ones([batch, length + 3], tf.int32), tf.ones([batch, length + 3], tf.bool)
    available = {ENCODER_IDS: ids, ENCODER_MASK: mask, "decoder_token_ids": decoder_ids, "decoder_padding_mask": decoder_mask}
    encoded = tf.zeros([batch, length, task.backbone.hidden_dim], task.compute_dtype)
    object.__setattr__(task, "call_encoder", lambda *args, **kwargs: encoded)  # only shapes are wanted: run no layer
    try:
        return call_arguments(task, "_build_cache", "call_decoder_with_cache", available)
    finally:
        object.__delattr__(task, "call_encoder")


def _specs(task: Any) -> tuple[tf.TensorSpec, tf.TensorSpec, tf.TensorSpec]:
    """Specs of the encoder's hidden states and of the stacked self and cross caches.

    Raises:
        UnsupportedError: the decoder takes its caches in another way.
    """
    seen = [_decoder_arguments(task, batch, length) for batch, length in ((1, 6), (2, 9))]
    if any(name not in arguments for arguments in seen for name in KEYWORD_CACHES):
        raise UnsupportedError("KX202", f"{type(task).__name__} passes its caches in a form that kexport does not capture yet", hint="see `kexport list`")
    specs = []
    for name in ("encoder_hidden_states", *KEYWORD_CACHES):
        first, second = (arguments[name] for arguments in seen)
        shape = [a if a == b else None for a, b in zip(first.shape, second.shape, strict=True)]
        specs.append(tf.TensorSpec(shape, first.dtype, name=name))
    return specs[0], specs[1], specs[2]


def capture_seq2seq(task: Any, *, without: frozenset[str] = frozenset(), hidden_states: bool = False) -> tuple[dict[str, Graph], list[str]]:
    """Capture `task` (a keras_hub Seq2SeqLM). Returns the cleaned graphs `encode` and `extend`, and notes.

    Raises:
        UnsupportedError: the model does something the graph has no form for.
    """
    _, self_spec, cross_spec = _specs(task)
    encode, encode_notes = _capture_encode(task, self_spec, cross_spec, without)
    extend, extend_notes = _capture_extend(task, self_spec, cross_spec, without, hidden_states=hidden_states)
    return {"encode": encode, "extend": extend}, encode_notes + extend_notes


def _capture_encode(task: Any, self_spec: tf.TensorSpec, cross_spec: tf.TensorSpec, without: frozenset[str]) -> tuple[Graph, list[str]]:
    trace = Trace()

    def stock(ids: tf.Tensor, mask: tf.Tensor, decoder_ids: tf.Tensor, start: tf.Tensor, self_cache: tf.Tensor, cross_cache: tf.Tensor) -> Any:
        trace.start_index = start
        trace.caches.update({self_cache.name: "self", cross_cache.name: "cross"})
        hidden = task.call_encoder(token_ids=ids, padding_mask=mask)
        result = task.call_decoder_with_cache(
            encoder_hidden_states=hidden,
            encoder_padding_mask=mask,
            decoder_token_ids=decoder_ids,
            self_attention_cache=self_cache,
            self_attention_cache_update_index=start,
            cross_attention_cache=cross_cache,
            cross_attention_cache_update_index=0,
        )
        return {"hidden": hidden, "cross": result[3]}

    specs = [_ids(ENCODER_IDS), _mask(), _ids("token_ids"), tf.TensorSpec([], tf.int32, name=START_INDEX), self_spec, cross_spec]
    with intercepting(trace, without=without):
        function = tf.function(stock, autograph=False).get_concrete_function(*specs)
    graph = Graph("encode")
    graph.add_input(ENCODER_IDS, "int32", (BATCH, ENCODER_SEQUENCE))
    graph.add_input(ENCODER_MASK, "bool", (BATCH, ENCODER_SEQUENCE))
    wanted = {"hidden": function.structured_outputs["hidden"], **_cross_updates(trace, function)}
    import_function(graph, trace, function, wanted, task.variables)
    finish(graph, trace)
    return graph, trace.notes


def _cross_updates(trace: Trace, function: Any) -> dict[str, tf.Tensor]:
    """What stock writes to the cross caches: output name -> tensor."""
    updates: dict[str, tf.Tensor] = {}
    for op in function.graph.get_operations():
        marker = trace.marker_of(op)
        view = find_cache(trace, op.outputs[0]) if marker is not None and marker.op == "cache_write" else None
        if view is not None and view.slot.startswith("cross.") and view.update is not None:
            updates[f"{view.slot}.{PARTS[view.part]}"] = view.update
    return dict(sorted(updates.items(), key=lambda item: (int(item[0].split(".")[1]), item[0])))


def _capture_extend(
    task: Any, self_spec: tf.TensorSpec, cross_spec: tf.TensorSpec, without: frozenset[str], *, hidden_states: bool
) -> tuple[Graph, list[str]]:
    trace = Trace()
    hidden_size = task.backbone.hidden_dim

    def stock(ids: tf.Tensor, positions: tf.Tensor, start: tf.Tensor, mask: tf.Tensor, self_cache: tf.Tensor, cross_cache: tf.Tensor) -> Any:
        trace.start_index, trace.positions = start, positions
        trace.caches.update({self_cache.name: "self", cross_cache.name: "cross"})
        # Only the shape of the hidden states is looked at once the cross cache is given.
        hidden = tf.zeros([tf.shape(mask)[0], tf.shape(mask)[1], hidden_size], task.compute_dtype)
        result = task.call_decoder_with_cache(
            encoder_hidden_states=hidden,
            encoder_padding_mask=mask,
            decoder_token_ids=ids,
            self_attention_cache=self_cache,
            self_attention_cache_update_index=start,
            cross_attention_cache=cross_cache,
            cross_attention_cache_update_index=None,
        )
        return {"logits": result[0], names.HIDDEN_STATES: result[1]}

    specs = [_ids("token_ids"), _ids("positions"), tf.TensorSpec([], tf.int32, name=START_INDEX), _mask(), self_spec, cross_spec]
    with intercepting(trace, without=without):
        function = tf.function(stock, autograph=False).get_concrete_function(*specs)
    graph = Graph("extend")
    graph.add_input("token_ids", "int32", (BATCH, SEQUENCE))
    graph.add_input("positions", "int32", (BATCH, SEQUENCE))
    graph.add_input(START_INDEX, "int32", ())
    graph.add_input(ENCODER_MASK, "bool", (BATCH, ENCODER_SEQUENCE))
    graph.slots.update(stacked_slots("self", self_spec) | stacked_slots("cross", cross_spec))
    import_function(graph, trace, function, wanted(function.structured_outputs, hidden_states=hidden_states), task.variables)
    finish(graph, trace)
    return graph, trace.notes


def _ids(name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None, None], tf.int32, name=name)


def _mask() -> tf.TensorSpec:
    return tf.TensorSpec([None, None], tf.bool, name=ENCODER_MASK)
