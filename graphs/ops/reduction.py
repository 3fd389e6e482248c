"""Ops over an axis: matmul, softmax, reduce_sum, reduce_mean, reduce_max, topk, one_hot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.dims import Dim, broadcast
from kexport.graphs.ops.spec import REQUIRED, Array, Arrays, Evaluation, Types, attribute, define, refuse
from kexport.runtime.contract.dtypes import numpy_dtype

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

REDUCTIONS: dict[str, Callable[..., Any]] = {"reduce_sum": np.sum, "reduce_mean": np.mean, "reduce_max": np.max}


def _typed(dtype: str, shape: tuple[Dim, ...]) -> TensorType:
    from kexport.graphs.ir import TensorType

    return TensorType(dtype, shape)


def _matmul_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    a, b = types
    assert a is not None and b is not None
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    if a.dtype != b.dtype or len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2] or batch is None:
        raise refuse(node, f"cannot multiply {a} and {b}")
    return (_typed(a.dtype, (*batch, a.shape[-2], b.shape[-1])),)


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x - max) / sum, along an axis."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def _same_type(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    assert types[0] is not None
    return (types[0],)


def _reduce_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    assert x is not None
    axes, keep = attribute(node, "axes"), attribute(node, "keepdims")
    if any(not 0 <= axis < len(x.shape) for axis in axes):
        raise refuse(node, f"axes {axes} are not axes of {x}")
    kept = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
    return (_typed(x.dtype, tuple(kept)),)


def _reduction(function: Callable[..., Any]) -> Callable[[Evaluation, Node, Arrays], tuple[Any, ...]]:
    def evaluate(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
        (x,) = arrays
        return (np.asarray(function(x, axis=tuple(attribute(node, "axes")), keepdims=bool(attribute(node, "keepdims")))).astype(x.dtype),)

    return evaluate


def _topk_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    assert x is not None
    shape = (*x.shape[:-1], int(attribute(node, "k")))
    return _typed(x.dtype, shape), _typed("int32", shape)


def _topk(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    order = np.argsort(-arrays[0], axis=-1, kind="stable")[..., : int(attribute(node, "k"))]
    return np.take_along_axis(arrays[0], order, -1), order.astype(np.int32)


def _one_hot_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    (indices,) = types
    assert indices is not None
    return (_typed(str(attribute(node, "dtype")), (*indices.shape, attribute(node, "depth"))),)


def _one_hot(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    (depth,) = evaluation.shape((attribute(node, "depth"),))
    return ((arrays[0][..., None] == np.arange(depth)).astype(numpy_dtype(str(attribute(node, "dtype")))),)


define(
    "matmul",
    "matrix product over the last two axes, leading axes broadcast",
    inputs=("a", "b"),
    infer=_matmul_types,
    evaluate=lambda evaluation, node, arrays: (np.matmul(*arrays),),
)
define(
    "softmax",
    "exp(x - max) / sum over one axis",
    inputs=("x",),
    attrs={"axis": -1},
    infer=_same_type,
    evaluate=lambda evaluation, node, arrays: (softmax(arrays[0], int(attribute(node, "axis"))),),
)
for _name, _function in REDUCTIONS.items():
    define(
        _name,
        f"{_name.removeprefix('reduce_')} over axes",
        inputs=("x",),
        attrs={"axes": REQUIRED, "keepdims": False},
        infer=_reduce_types,
        evaluate=_reduction(_function),
    )
define(
    "topk",
    "the k largest of the last axis, descending, lower index first on ties; outputs values and int32 indices",
    inputs=("x",),
    attrs={"k": REQUIRED},
    infer=_topk_types,
    evaluate=_topk,
)
define(
    "one_hot",
    "1 at the index and 0 elsewhere, on a new last axis of size depth (which may be a named dim)",
    inputs=("indices",),
    attrs={"depth": REQUIRED, "dtype": "float32"},
    infer=_one_hot_types,
    evaluate=_one_hot,
)
