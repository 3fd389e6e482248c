"""Capture a decoder-only model: `call_with_cache` of stock KerasHub, traced once with dynamic batch and length.

The graph `extend` takes token_ids and positions [batch, sequence] int32 and gives logits [batch, sequence, vocabulary]; caches are
its slots `self.<layer>`, and what it keeps beside them its states. Prefill and decode are the same graph at different lengths. Where padding
leaves traces in the states it takes valid_lengths [batch] int32, too: a row's tokens from that position on are padding. Where a token's result
depends on how many tokens the original's call has, it takes extent [batch, sequence] int32: where the original's call for this token ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from kexport.graphs.capture.cache_forms import cache_form
from kexport.graphs.capture.importing import import_function
from kexport.graphs.capture.intercept import intercepting
from kexport.graphs.capture.trace import Trace
from kexport.graphs.dims import BATCH, SEQUENCE
from kexport.graphs.ir import Graph
from kexport.graphs.passes import clean, run_passes
from kexport.graphs.passes.classify_masks import START_INDEX
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import UnsupportedError


def capture_causal(task: Any, *, without: frozenset[str] = frozenset(), hidden_states: bool = False, fixed: bool = False) -> tuple[Graph, list[str]]:
    """Capture `task` (a keras_hub CausalLM). Returns the cleaned graph and notes on what stayed plain ops.

    Args:
        without: names of interceptors to leave out, e.g. {"attention"}: these layers stay plain ops.
        hidden_states: the graph gives what the head makes logits of, too, for all new tokens.
        fixed: the corrected form, where the family's semantics tell of one.

    Raises:
        UnsupportedError: the model does something the graph has no form for, named with its layer.
    """
    form = cache_form(task)
    trace = Trace(is_fixed=fixed)

    def stock(
        token_ids: tf.Tensor, positions: tf.Tensor, extent: tf.Tensor, valid_lengths: tf.Tensor, start_index: tf.Tensor, *caches: tf.Tensor
    ) -> Any:
        trace.start_index, trace.positions, trace.extent, trace.valid_lengths = start_index, positions, extent, valid_lengths
        form.register(trace, caches)
        logits, hidden, new_cache = form.call(task, token_ids, form.nested(caches), start_index, positions)
        return {"logits": logits, names.HIDDEN_STATES: hidden, "cache": new_cache}

    specs = [
        tf.TensorSpec([None, None], tf.int32, name="token_ids"),
        tf.TensorSpec([None, None], tf.int32, name="positions"),
        tf.TensorSpec([None, None], tf.int32, name=names.EXTENT),
        tf.TensorSpec([None], tf.int32, name=names.VALID_LENGTHS),
        tf.TensorSpec([], tf.int32, name=START_INDEX),
        *form.specs,
    ]
    with intercepting(trace, without=without):
        function = tf.function(stock, autograph=False).get_concrete_function(*specs)
    graph = Graph("extend")
    graph.add_input("token_ids", "int32", (BATCH, SEQUENCE))
    graph.add_input("positions", "int32", (BATCH, SEQUENCE))
    if trace.extent is not None and trace.extent.consumers():
        graph.add_input(names.EXTENT, "int32", (BATCH, SEQUENCE))
    graph.add_input(START_INDEX, "int32", ())
    form.declare(graph, trace)
    if graph.states:
        graph.add_input(names.VALID_LENGTHS, "int32", (BATCH,))
    outputs = wanted(function.structured_outputs, hidden_states=hidden_states)
    import_function(graph, trace, function, {**outputs, **trace.next_states}, task.variables)
    finish(graph, trace)
    return graph, trace.notes


def wanted(outputs: Mapping[str, tf.Tensor], *, hidden_states: bool) -> dict[str, tf.Tensor]:
    """The logits of what a traced decoder gives, and the hidden states where asked for."""
    chosen = ("logits", names.HIDDEN_STATES) if hidden_states else ("logits",)
    return {name: outputs[name] for name in chosen}


def finish(graph: Graph, trace: Trace) -> None:
    """Clean an imported graph and make sure that nothing is left that rows of different lengths could not share.

    Raises:
        UnsupportedError: something still depends on where the call starts, as one number for all rows.
    """
    results = run_passes(graph, clean())
    trace.notes += [note for result in results.values() for note in result.refusals]
    if START_INDEX in graph.inputs:
        readers = {node.layer or node.op for node in graph.nodes if START_INDEX in node.inputs}
        raise UnsupportedError("KX203", f"the model uses the call's start index in a way rows of different lengths cannot share: {', '.join(sorted(readers))}")


def parameters_of(task: Any) -> list[keras.Variable]:
    """The float variables of a task (random-generator states are not part of the model)."""
    return [variable for variable in task.variables if keras.backend.is_float_dtype(keras.backend.standardize_dtype(variable.dtype))]


