"""Builder -> `onnx_ir.Model`: unread operators dropped, every value typed, weights as lazy tensors in the order of their first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from kexport.graphs.dims import Shape
from kexport.graphs.weights import Weight, WeightSource
from kexport.runtime.contract.errors import InternalError, UnsupportedError
from kexport.runtime.contract.version import __version__
from kexport.targets.onnx.builder import CONTRIB, Branch, Builder, Computed, Operator, Tensor, onnx_dim
from numpy.typing import NDArray

OPSET = 21  # what onnxruntime-genai and the web and mobile builds of onnxruntime take; Gelu needs 20
IR_VERSION = 10
DTYPES = {
    "float64": ir.DataType.DOUBLE, "float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16,
    "int64": ir.DataType.INT64, "int32": ir.DataType.INT32, "int16": ir.DataType.INT16, "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8, "bool": ir.DataType.BOOL,
}  # fmt: skip
DTYPE_NAMES = {element: name for name, element in DTYPES.items()}


def assemble(b: Builder, outputs: Mapping[str, Tensor], weights: WeightSource, keep_inputs: frozenset[str]) -> ir.Model:
    """The model of `b` with these outputs (by their final names). Inputs that nothing reads are dropped unless in `keep_inputs`."""
    renamed = _rename_outputs(b, outputs)
    operators = _alive(b.operators, {tensor.name for tensor in outputs.values()})
    read = {name for operator in operators for name in _read_by(operator)} | {tensor.name for tensor in outputs.values()}
    values: dict[str, Any] = {"": None}
    inputs = [_value(tensor, tensor.name) for name, tensor in b.inputs.items() if name in keep_inputs or tensor.name in read]
    values |= {str(value.name): value for value in inputs}
    initializers = [_initializer(name, content, weights) for name, content in b.initializers.items() if name in read]
    values |= {str(value.name): value for value in initializers}
    nodes = [_node(operator, values, renamed) for operator in operators]
    graph = ir.Graph(
        inputs,
        [values[tensor.name] for tensor in outputs.values()],
        nodes=nodes,
        initializers=initializers,
        opset_imports={"": OPSET, CONTRIB: 1},
        name=b.graph.name,
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="kexport", producer_version=__version__)


def _rename_outputs(b: Builder, outputs: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensor name -> output name.

    Raises:
        InternalError: an output is no operator's result, or one result is two outputs.
    """
    made = {tensor.name for operator in b.operators for tensor in operator.outputs}
    renamed: dict[str, str] = {}
    for name, tensor in outputs.items():
        if tensor.name not in made or tensor.name in renamed:
            raise InternalError(
                "KX920", f"graph `{b.graph.name}`: output `{name}` is `{tensor.name}`, which no operator makes for it alone"
            )
        renamed[tensor.name] = name
    return renamed


def _read_by(operator: Operator) -> set[str]:
    """The tensors that an operator and what its outputs need of its branches read."""
    inner = (name for branch in operator.branches for part in _alive_in(branch) for name in _read_by(part))
    return {*operator.inputs, *inner}


def _alive_in(branch: Branch) -> list[Operator]:
    return _alive(branch.operators, {tensor.name for tensor in branch.outputs})


def _alive(operators: Sequence[Operator], needed: set[str]) -> list[Operator]:
    needed, alive = set(needed), []
    for operator in reversed(operators):
        if any(tensor.name in needed for tensor in operator.outputs):
            alive.append(operator)
            needed.update(_read_by(operator))
    return alive[::-1]


def onnx_type(dtype: str) -> ir.DataType:
    """The ONNX element type of a dtype name.

    Raises:
        UnsupportedError: ONNX has none.
    """
    if dtype not in DTYPES:
        raise UnsupportedError("KX211", f"the ONNX target has no element type for `{dtype}`")
    return DTYPES[dtype]


def _value(tensor: Tensor, name: str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(onnx_type(tensor.dtype)), shape=_shape(tensor.shape))


def _shape(shape: Shape) -> ir.Shape:
    return ir.Shape([onnx_dim(dim) for dim in shape])


def _node(operator: Operator, values: dict[str, Any], renamed: Mapping[str, str]) -> ir.Node:
    outputs = [_value(tensor, renamed.get(tensor.name, tensor.name)) for tensor in operator.outputs]
    values |= {tensor.name: value for tensor, value in zip(operator.outputs, outputs, strict=True)}
    attributes = {key: _attribute(key, value, values) for key, value in operator.attributes.items()}
    return ir.node(
        operator.type,
        [values[name] for name in operator.inputs],
        attributes=attributes,
        domain=operator.domain,
        outputs=outputs,
        name=operator.name.removeprefix("node:"),
    )


def _attribute(key: str, value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Branch):
        inside = dict(values)
        nodes = [_node(operator, inside, {}) for operator in _alive_in(value)]
        return ir.Graph([], [inside[tensor.name] for tensor in value.outputs], nodes=nodes, name=value.name)
    return int(onnx_type(value)) if key == "to" else value


def _initializer(name: str, content: Weight | Computed | NDArray[Any], weights: WeightSource) -> ir.Value:
    dtype = content.dtype.name if isinstance(content, np.ndarray) else content.dtype
    element = onnx_type(dtype)
    shape = ir.Shape(content.shape)

    def materialize(name: str = name, content: Weight | Computed | NDArray[Any] = content) -> ir.TensorProtocol:
        return ir.Tensor(_numbers(content, weights), dtype=element, shape=shape, name=name)

    lazy = ir.LazyTensor(materialize, dtype=element, shape=shape, name=name, cache=False)
    return ir.Value(name=name, type=ir.TensorType(element), shape=shape, const_value=lazy)


def _numbers(content: Weight | Computed | NDArray[Any], weights: WeightSource) -> NDArray[Any]:
    if isinstance(content, Weight):
        return content.materialize(weights)
    return content.make() if isinstance(content, Computed) else content
