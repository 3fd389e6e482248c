"""Reductions, softmax, top-k, one-hot, band masks."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from kexport.graphs.capture.importing.importer import Importer, graph_dtype, imports

NAMES = {"Sum": "reduce_sum", "Mean": "reduce_mean", "Max": "reduce_max"}


def _axes(importer: Importer, op: tf.Operation) -> tuple[int, ...]:
    rank = len(importer.shape(op.inputs[0]))
    return tuple(int(axis) % rank for axis in np.atleast_1d(importer.needed_constant(op, 1)))


@imports(*NAMES)
def reduce(importer: Importer, op: tf.Operation) -> None:
    x = importer.value(op.inputs[0])
    importer.set(op.outputs[0], importer.node(NAMES[op.type], [x], axes=_axes(importer, op), keepdims=bool(op.get_attr("keep_dims"))))


@imports("Min")
def reduce_min(importer: Importer, op: tf.Operation) -> None:
    negated = importer.node("neg", [importer.value(op.inputs[0])])
    largest = importer.node("reduce_max", [negated], axes=_axes(importer, op), keepdims=bool(op.get_attr("keep_dims")))
    importer.set(op.outputs[0], importer.node("neg", [largest]))


@imports("Any", "All")
def any_or_all(importer: Importer, op: tf.Operation) -> None:
    """all(x) is: not any(not x); any(x) is: the largest of x as a number."""
    x = importer.value(op.inputs[0])
    x = importer.node("not", [x]) if op.type == "All" else x
    number = importer.node("cast", [x], dtype="int32")
    largest = importer.node("reduce_max", [number], axes=_axes(importer, op), keepdims=bool(op.get_attr("keep_dims")))
    found = importer.node("cast", [largest], dtype="bool")
    importer.set(op.outputs[0], importer.node("not", [found]) if op.type == "All" else found)


@imports("Softmax")
def softmax(importer: Importer, op: tf.Operation) -> None:
    importer.set(op.outputs[0], importer.node("softmax", [importer.value(op.inputs[0])], axis=-1))


@imports("TopKV2")
def top_k(importer: Importer, op: tf.Operation) -> None:
    values, indices = importer.nodes("topk", [importer.value(op.inputs[0])], 2, k=int(importer.needed_constant(op, 1)))
    importer.set(op.outputs[0], values)
    importer.set(op.outputs[1], indices)


@imports("OneHot")
def one_hot(importer: Importer, op: tf.Operation) -> None:
    (depth,) = importer.needed_sizes(op, 1)
    on, off = (float(importer.needed_constant(op, index)) for index in (2, 3))
    last = op.get_attr("axis") in (-1, len(importer.shape(op.inputs[0])))
    if (on, off) != (1.0, 0.0) or not last:
        raise importer.refuse(op, "only 1 and 0 on the last axis")
    importer.set(op.outputs[0], importer.node("one_hot", [importer.value(op.inputs[0])], depth=depth, dtype=graph_dtype(op.outputs[0].dtype)))


@imports("MatrixBandPart")
def band_part(importer: Importer, op: tf.Operation) -> None:
    """x where (row - column <= lower or lower < 0) and (column - row <= upper or upper < 0), else 0."""
    x = importer.value(op.inputs[0])
    rows, columns = importer.graph.type_of(x).shape[-2:]
    row = importer.node("reshape", [importer.node("range", [], size=rows)], shape=(rows, 1))
    column = importer.node("range", [], size=columns)
    below, above = importer.node("sub", [row, column]), importer.node("sub", [column, row])
    zero = importer.graph.add_constant(np.int32(0))
    kept = []
    for distance, tensor in ((below, op.inputs[1]), (above, op.inputs[2])):
        bound = importer.node("cast", [importer.value(tensor)], dtype="int32")
        kept.append(importer.node("or", [importer.node("le", [distance, bound]), importer.node("lt", [bound, zero])]))
    inside = importer.node("and", kept)
    if op.outputs[0].dtype.name == "bool":
        importer.set(op.outputs[0], importer.node("and", [inside, x]))
        return
    nothing = importer.graph.add_constant(np.zeros((), graph_dtype(op.outputs[0].dtype)))
    importer.set(op.outputs[0], importer.node("where", [inside, x, nothing]))
