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
from kexport.graphs.capture.decoder_forms import DecoderForm, decoder_form
from kexport.graphs.capture.importing import import_function
from kexport.graphs.capture.intercept import intercepting
from kexport.graphs.capture.trace import Trace
from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, SEQUENCE
from kexport.graphs.ir import Graph
from kexport.graphs.passes.classify_masks import START_INDEX
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import UnsupportedError

PARTS = ("key", "value")
PART_AXIS = 1  # of a cache [batch, 2, length, heads, dim], and of one stacked from layers
ENCODER_IDS = "encoder_token_ids"
ENCODER_MASK = "encoder_padding_mask"


def capture_seq2seq(task: Any, *, without: frozenset[str] = frozenset(), hidden_states: bool = False) -> tuple[dict[str, Graph], list[str]]:
    """Capture `task` (a keras_hub Seq2SeqLM). Returns the cleaned graphs `encode` and `extend`, and notes.

    Raises:
        UnsupportedError: the model does something the graph has no form for.
    """
    form = decoder_form(task)
    encode, encode_notes = _capture_encode(form, without)
    extend, extend_notes = _capture_extend(form, without, hidden_states=hidden_states)
    return {"encode": encode, "extend": extend}, encode_notes + extend_notes


def _capture_encode(form: DecoderForm, without: frozenset[str]) -> tuple[Graph, list[str]]:
    trace = Trace()

    def stock(ids: tf.Tensor, mask: tf.Tensor, decoder_ids: tf.Tensor, start: tf.Tensor, self_cache: tf.Tensor, cross_cache: tf.Tensor) -> Any:
        trace.start_index = start
        trace.caches.update({self_cache.name: "self", cross_cache.name: "cross"})
        hidden = form.encode(ids, mask)
        _, _, cross = form.decode(hidden, mask, decoder_ids, start, self_cache, cross_cache, fill=True)
        return {"hidden": hidden, "cross": cross}

    specs = [_ids(ENCODER_IDS), _mask(), _ids("token_ids"), tf.TensorSpec([], tf.int32, name=START_INDEX), form.self_cache, form.cross_cache]
    with intercepting(trace, without=without):
        function = tf.function(stock, autograph=False).get_concrete_function(*specs)
    graph = Graph("encode")
    graph.add_input(ENCODER_IDS, "int32", (BATCH, ENCODER_SEQUENCE))
    graph.add_input(ENCODER_MASK, "bool", (BATCH, ENCODER_SEQUENCE))
    outputs = {"hidden": function.structured_outputs["hidden"], **_cross_updates(trace, function.structured_outputs["cross"])}
    import_function(graph, trace, function, outputs, form.task.variables)
    finish(graph, trace)
    return graph, trace.notes


def _cross_updates(trace: Trace, cross: tf.Tensor) -> dict[str, tf.Tensor]:
    """What the stacked cross cache is made of: output name -> tensor [batch, encoder_sequence, heads, dim]."""
    updates: dict[str, tf.Tensor] = {}
    for layer, pair in enumerate(_stacked(cross)):
        for part, tensor in zip(PARTS, _stacked(pair), strict=True):
            marker = trace.marker_of(tensor.op)
            written = marker.inputs[0] if marker is not None and marker.op == "cache_write" else tensor
            updates[f"cross.{layer}.{part}"] = written
    return updates


def _stacked(tensor: tf.Tensor) -> list[tf.Tensor]:
    """The tensors that stock code stacked on the second axis.

    Raises:
        UnsupportedError: KX202, it made this one in another way.
    """
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    if tensor.op.type != "Pack" or tensor.op.get_attr("axis") != PART_AXIS:
        raise UnsupportedError("KX202", f"the cross cache is made by `{tensor.op.type}` in a form that kexport does not capture yet", hint="see `kexport list`")
    return list(tensor.op.inputs)


def _capture_extend(form: DecoderForm, without: frozenset[str], *, hidden_states: bool) -> tuple[Graph, list[str]]:
    trace = Trace()

    def stock(ids: tf.Tensor, positions: tf.Tensor, start: tf.Tensor, mask: tf.Tensor, self_cache: tf.Tensor, cross_cache: tf.Tensor) -> Any:
        trace.start_index, trace.positions = start, positions
        trace.caches.update({self_cache.name: "self", cross_cache.name: "cross"})
        # Only the shape of the hidden states is looked at once the cross cache is given.
        hidden = tf.zeros([tf.shape(mask)[0], tf.shape(mask)[1], form.hidden.shape[-1]], form.hidden.dtype)
        logits, states, _ = form.decode(hidden, mask, ids, start, self_cache, cross_cache, fill=False)
        return {"logits": logits, names.HIDDEN_STATES: states}

    specs = [_ids("token_ids"), _ids("positions"), tf.TensorSpec([], tf.int32, name=START_INDEX), _mask(), form.self_cache, form.cross_cache]
    with intercepting(trace, without=without):
        function = tf.function(stock, autograph=False).get_concrete_function(*specs)
    graph = Graph("extend")
    graph.add_input("token_ids", "int32", (BATCH, SEQUENCE))
    graph.add_input("positions", "int32", (BATCH, SEQUENCE))
    graph.add_input(START_INDEX, "int32", ())
    graph.add_input(ENCODER_MASK, "bool", (BATCH, ENCODER_SEQUENCE))
    graph.slots.update(stacked_slots("self", form.self_cache) | stacked_slots("cross", form.cross_cache))
    import_function(graph, trace, function, wanted(function.structured_outputs, hidden_states=hidden_states), form.task.variables)
    finish(graph, trace)
    return graph, trace.notes


def _ids(name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None, None], tf.int32, name=name)


def _mask() -> tf.TensorSpec:
    return tf.TensorSpec([None, None], tf.bool, name=ENCODER_MASK)
