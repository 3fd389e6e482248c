"""Ops that turn named sizes into numbers: dim_size, range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.spec import REQUIRED, Arrays, Evaluation, Types, attribute, define
from kexport.runtime.contract.dtypes import numpy_dtype

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType


def _scalar(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    from kexport.graphs.ir import TensorType

    return (TensorType("int32", ()),)


def _range_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    from kexport.graphs.ir import TensorType

    return (TensorType(str(attribute(node, "dtype")), (attribute(node, "size"),)),)


def _range(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    (size,) = evaluation.shape((attribute(node, "size"),))
    return (np.arange(size).astype(numpy_dtype(str(attribute(node, "dtype")))),)


define(
    "dim_size",
    "the size of a dim as an int32 scalar",
    inputs=(),
    attrs={"dim": REQUIRED},
    infer=_scalar,
    evaluate=lambda evaluation, node, arrays: (np.asarray(evaluation.shape((attribute(node, "dim"),))[0], np.int32),),
)
define(
    "range",
    "0, 1, 2, ... up to a dim's size (exclusive)",
    inputs=(),
    attrs={"size": REQUIRED, "dtype": "int32"},
    infer=_range_types,
    evaluate=_range,
)
