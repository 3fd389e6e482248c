"""Ops that move numbers and compute none: reshape, transpose, concat, split, slice, broadcast_to, gather."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.dims import Dim, broadcast, product
from kexport.graphs.ops.spec import REQUIRED, Arrays, Evaluation, Types, attribute, define, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType


def _typed(dtype: str, shape: tuple[Dim, ...]) -> TensorType:
    from kexport.graphs.ir import TensorType

    return TensorType(dtype, shape)


def _reshape_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    assert x is not None
    shape = tuple(attribute(node, "shape"))
    if product(shape) != product(x.shape):
        raise refuse(node, f"{x} does not have as many numbers as {shape}")
    return (_typed(x.dtype, shape),)


def _transpose_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    assert x is not None
    permutation = attribute(node, "permutation")
    if sorted(permutation) != list(range(len(x.shape))):
        raise refuse(node, f"{permutation} is no order of the axes of {x}")
    return (_typed(x.dtype, tuple(x.shape[axis] for axis in permutation)),)


def _concat_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    first, axis = types[0], int(attribute(node, "axis"))
    assert first is not None
    sizes: list[Dim] = []
    for x in types:
        assert x is not None
        if x.dtype != first.dtype or x.shape[:axis] + x.shape[axis + 1 :] != first.shape[:axis] + first.shape[axis + 1 :]:
            raise refuse(node, f"{x} does not join {first} on axis {axis}")
        sizes.append(x.shape[axis])
    if not all(isinstance(size, int) for size in sizes):
        raise refuse(node, "the joined axis must have fixed sizes")
    return (_typed(first.dtype, (*first.shape[:axis], sum(int(size) for size in sizes), *first.shape[axis + 1 :])),)


def _split_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    assert x is not None
    axis, sizes = int(attribute(node, "axis")), tuple(attribute(node, "sizes"))
    if sum(sizes) != x.shape[axis]:
        raise refuse(node, f"sizes {sizes} do not add up to axis {axis} of {x}")
    return tuple(_typed(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes)


def _split(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    stops = np.cumsum(attribute(node, "sizes"))[:-1]
    return tuple(np.split(arrays[0], stops, axis=int(attribute(node, "axis"))))


def _slice_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    assert x is not None
    axis, start, stop = (int(attribute(node, name)) for name in ("axis", "start", "stop"))
    size = x.shape[axis]
    if not isinstance(size, int) or not 0 <= start < stop <= size:
        raise refuse(node, f"[{start}:{stop}] is not within axis {axis} of {x}")
    return (_typed(x.dtype, (*x.shape[:axis], stop - start, *x.shape[axis + 1 :])),)


def _slice(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    axis, start, stop = (int(attribute(node, name)) for name in ("axis", "start", "stop"))
    return (arrays[0][(slice(None),) * axis + (slice(start, stop),)],)


def _broadcast_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    assert x is not None
    shape = tuple(attribute(node, "shape"))
    if broadcast(x.shape, shape) != shape:
        raise refuse(node, f"{x} does not broadcast to {shape}")
    return (_typed(x.dtype, shape),)


def _gather_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    x, indices = types
    assert x is not None and indices is not None
    axis = int(attribute(node, "axis"))
    return (_typed(x.dtype, x.shape[:axis] + indices.shape + x.shape[axis + 1 :]),)


define(
    "reshape",
    "the same numbers in another shape; dims may be names",
    inputs=("x",),
    attrs={"shape": REQUIRED},
    infer=_reshape_types,
    evaluate=lambda evaluation, node, arrays: (arrays[0].reshape(evaluation.shape(attribute(node, "shape"))),),
)
define(
    "transpose",
    "axes in a new order",
    inputs=("x",),
    attrs={"permutation": REQUIRED},
    infer=_transpose_types,
    evaluate=lambda evaluation, node, arrays: (arrays[0].transpose(attribute(node, "permutation")),),
)
define(
    "concat",
    "several tensors joined along an axis of fixed sizes",
    inputs=("x*",),
    attrs={"axis": REQUIRED},
    infer=_concat_types,
    evaluate=lambda evaluation, node, arrays: (np.concatenate(arrays, axis=int(attribute(node, "axis"))),),
)
define(
    "split",
    "x cut along an axis into parts of the given sizes, one output each",
    inputs=("x",),
    attrs={"axis": REQUIRED, "sizes": REQUIRED},
    infer=_split_types,
    evaluate=_split,
)
define(
    "slice",
    "positions start to stop (exclusive) of one axis",
    inputs=("x",),
    attrs={"axis": REQUIRED, "start": REQUIRED, "stop": REQUIRED},
    infer=_slice_types,
    evaluate=_slice,
)
define(
    "broadcast_to",
    "x repeated to a larger shape, numpy's rule",
    inputs=("x",),
    attrs={"shape": REQUIRED},
    infer=_broadcast_types,
    evaluate=lambda evaluation, node, arrays: (np.broadcast_to(arrays[0], evaluation.shape(attribute(node, "shape"))),),
)
define(
    "gather",
    "x taken at integer indices along an axis; indices must be in range",
    inputs=("x", "indices"),
    attrs={"axis": 0},
    infer=_gather_types,
    evaluate=lambda evaluation, node, arrays: (np.take(arrays[0], arrays[1], axis=int(attribute(node, "axis"))),),
)
