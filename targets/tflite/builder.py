"""Collects operators for one signature: one graph with every dim bound to a size, since all shapes in the file are fixed.

Lowerings write freely: what no output needs is dropped by `finish`, so that a prefill without logits loses the last layer's attention,
its feed-forward part and the head without a word about it here. Reshapes of reshapes go back to the first tensor of their chain,
shared sub-expressions are written once (`memo`), weights enter as references and stay references.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from kexport.graphs.dims import Shape, evaluate
from kexport.graphs.ir import Graph, Node, Slot, TensorType
from kexport.graphs.weights import Weight
from kexport.runtime.contract.errors import InternalError, UnsupportedError
from kexport.runtime.contract.manifest import Experts, Fusion
from kexport.targets.base import EmitOptions
from kexport.targets.tflite.model_file import ABSENT, ModelFile, OperatorRecord, Stored, Subgraph, TensorRecord
from kexport.targets.tflite.schema import OPERATORS, TENSOR_TYPES
from numpy.typing import NDArray

T = TypeVar("T")
Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value in the file: its name in the subgraph, dtype, and sizes."""

    name: str
    dtype: str
    shape: Sizes


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator; None stands for an absent optional input."""

    form: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: dict[str, Any]


@dataclass(slots=True)
class SlotTensors:
    """The tensors of one cache slot, keys then values: [1, key-value heads, length, dim]. `present` is set by the slot's writer."""

    slot: Slot
    past: tuple[Tensor, Tensor]
    output_names: tuple[str, str]
    present: list[Tensor | None] = field(default_factory=lambda: [None, None])

    def now(self, part: int) -> Tensor:
        """The newest state: present once written, else past."""
        return self.present[part] or self.past[part]


class Builder:
    """The operators of one signature under construction.

    `sizes`: the size of every named dim. `cache_length`: positions of a self cache, at least as many as `sizes["total"]`, the positions
    that attention looks at.
    """

    def __init__(self, graph: Graph, name: str, sizes: Mapping[str, int], cache_length: int, options: EmitOptions) -> None:
        self.graph = graph
        self.name = name
        self.sizes = sizes
        self.cache_length = cache_length
        self.options = options
        self.inputs: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.slots: dict[str, SlotTensors] = {}
        self.fusions: list[Fusion] = []
        self.experts: list[Experts] = []
        self._contents: dict[str, NDArray[Any] | Stored] = {}
        self._tensors: dict[str, Tensor] = {}
        self._numeric: dict[str, Tensor] = {}
        self._weights: dict[Stored, Tensor] = {}
        self._views: dict[str, dict[Sizes, Tensor]] = {}
        self._memo: dict[Any, Any] = {}
        self._names: set[str] = set()
        self._scope = ""

    # ---- graph values

    def add_input(self, name: str, dtype: str, shape: Sizes) -> Tensor:
        """Declare an input of the signature."""
        tensor = self.inputs[name] = Tensor(self._unique(name), dtype, shape)
        return tensor

    def set(self, name: str, tensor: Tensor) -> None:
        """Let graph value `name` be `tensor`."""
        self._tensors[name] = tensor

    def set_numeric(self, name: str, tensor: Tensor) -> None:
        """Remember a numeric form (0 and 1) of a bool graph value, for masks that are summed."""
        self._numeric[name] = tensor

    def scope(self, node: Node) -> None:
        """Name the tensors that follow after this graph node."""
        self._scope = f"{node.layer}/{node.output}" if node.layer else node.output

    def value(self, name: str) -> Tensor:
        """The tensor of graph value `name`; weights and constants are entered at their first use."""
        if name in self._tensors:
            return self._tensors[name]
        if name in self.graph.weights:
            return self.weight(self.graph.weights[name])
        if name in self.graph.constants:
            return self.constant(self.graph.constants[name])
        raise InternalError("KX903", f"graph `{self.graph.name}`: `{name}` is read before it is produced")

    def optional(self, name: str) -> Tensor | None:
        """The tensor of `name`, None for `""`."""
        return self.value(name) if name else None

    def as_float(self, name: str) -> Tensor:
        """A bool graph value as float32 0 and 1."""
        return self.cast(self._numeric.get(name) or self.value(name), "float32")

    def type_of(self, name: str) -> TensorType:
        """The graph's type of value `name`."""
        return self.graph.type_of(name)

    def shape_of(self, name: str) -> Sizes:
        """The sizes of graph value `name` in this signature."""
        return self.fixed(self.graph.type_of(name).shape)

    def fixed(self, shape: Shape) -> Sizes:
        """`shape` with every name replaced by its size."""
        return tuple(evaluate(dim, self.sizes) for dim in shape)

    # ---- numbers

    def stored_form(self, weight: Weight) -> Weight:
        """How `weight` is stored: matrices in `stored_dtype`; vectors wide, but with numbers rounded to it."""
        stored = self.options.stored_dtype
        if weight.dtype != "float32" or stored == "float32":
            return weight
        return weight.cast(stored) if len(weight.shape) > 1 else weight.cast(stored).cast("float32")

    def weight(self, weight: Weight) -> Tensor:
        """A weight in its own dtype: the stored numbers, widened by a DEQUANTIZE where they are narrower."""
        narrow = self.stored_form(weight)
        tensor = self.stored(narrow)
        if narrow.dtype == weight.dtype:
            return tensor
        return self.memo(("widened", tensor.name), lambda: self.op("DEQUANTIZE", [tensor], weight.dtype, tensor.shape))

    def stored(self, content: Stored) -> Tensor:
        """The constant tensor of a weight or of computed numbers, entered once."""
        if content not in self._weights:
            self._weights[content] = self._enter(content.label, content.dtype, content.shape, content)
        return self._weights[content]

    def constant(self, array: Any, name: str = "constant") -> Tensor:
        """A tensor with these numbers; equal ones are entered once."""
        array = np.asarray(array)
        key = ("constant", array.dtype.name, array.shape, array.tobytes())
        return self.memo(key, lambda: self._enter(name, array.dtype.name, array.shape, array))

    def integers(self, *numbers: int) -> Tensor:
        """An int32 vector."""
        return self.constant(np.array(numbers, np.int32))

    def number(self, value: float) -> Tensor:
        """A float32 scalar."""
        return self.constant(np.float32(value))

    def _enter(self, name: str, dtype: str, shape: Sizes, content: NDArray[Any] | Stored) -> Tensor:
        tensor = Tensor(self._unique(name), self._checked(dtype), shape)
        self._contents[tensor.name] = content
        return tensor

    # ---- operators

    def op(self, form: str, inputs: Sequence[Tensor | None], dtype: str, shape: Sizes, **options: Any) -> Tensor:
        """Write an operator with one output of this dtype and shape."""
        return self.operator(form, inputs, [(dtype, shape)], **options)[0]

    def operator(
        self, form: str, inputs: Sequence[Tensor | None], outputs: Sequence[tuple[str, Sizes]], **options: Any
    ) -> tuple[Tensor, ...]:
        """Write an operator with several outputs."""
        if form not in OPERATORS:
            raise InternalError("KX904", f"the file format table has no operator {form}")
        stem = f"{self._scope}/{form}" if self._scope else form
        made = tuple(Tensor(self._unique(stem), self._checked(dtype), shape) for dtype, shape in outputs)
        self.operators.append(Operator(form, tuple(inputs), made, options))
        return made

    def unary(self, form: str, x: Tensor, **options: Any) -> Tensor:
        """An operator that keeps dtype and shape."""
        return self.op(form, [x], x.dtype, x.shape, **options)

    def binary(self, form: str, left: Tensor, right: Tensor, dtype: str = "") -> Tensor:
        """An elementwise operator with numpy's broadcasting."""
        return self.op(form, [left, right], dtype or left.dtype, np.broadcast_shapes(left.shape, right.shape))

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """`tensor` in another dtype, written once."""
        if tensor.dtype == dtype:
            return tensor
        kinds = {"in_data_type": TENSOR_TYPES[self._checked(tensor.dtype)], "out_data_type": TENSOR_TYPES[self._checked(dtype)]}
        return self.memo(("cast", tensor.name, dtype), lambda: self.op("CAST", [tensor], dtype, tensor.shape, **kinds))

    def memo(self, key: Any, make: Callable[[], T]) -> T:
        """What `make()` gives, made at the first request for `key`."""
        if key not in self._memo:
            self._memo[key] = make()
        result: T = self._memo[key]
        return result

    def reshape(self, tensor: Tensor, shape: Sizes) -> Tensor:
        """`tensor` in another shape. A shape that some tensor of the same chain of reshapes already has costs nothing."""
        if math.prod(shape) != math.prod(tensor.shape):
            raise InternalError("KX905", f"signature `{self.name}`: cannot reshape {tensor.shape} to {shape}")
        views = self._views.setdefault(tensor.name, {tensor.shape: tensor})
        if shape not in views:
            views[shape] = made = self.op("RESHAPE", [tensor, self.integers(*shape)], tensor.dtype, shape, new_shape=shape)
            self._views[made.name] = views
        return views[shape]

    def transpose(self, tensor: Tensor, permutation: tuple[int, ...]) -> Tensor:
        """`tensor` with its axes in a new order; a reshape where only axes of size 1 move."""
        shape = tuple(tensor.shape[axis] for axis in permutation)
        moving = [axis for axis in permutation if tensor.shape[axis] != 1]
        if moving == sorted(moving):
            return self.reshape(tensor, shape)
        return self.op("TRANSPOSE", [tensor, self.integers(*permutation)], tensor.dtype, shape)

    def part(self, tensor: Tensor, begin: Sizes, size: Sizes) -> Tensor:
        """A block of `tensor`."""
        if size == tensor.shape:
            return tensor
        return self.op("SLICE", [tensor, self.integers(*begin), self.integers(*size)], tensor.dtype, size)

    def joined(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Tensors along an axis."""
        first = tensors[0].shape
        shape = (*first[:axis], sum(tensor.shape[axis] for tensor in tensors), *first[axis + 1 :])
        return self.op("CONCATENATION", tensors, tensors[0].dtype, shape, axis=axis)

    # ---- finishing

    def finish(self, file: ModelFile, outputs: Mapping[str, Tensor], always: frozenset[str] = frozenset()) -> Subgraph:
        """The subgraph of all operators that `outputs` need. Inputs that nothing reads are left out, but for those named in `always`."""
        operators = self._live(outputs.values())
        used = {tensor.name for operator in operators for tensor in operator.inputs if tensor is not None}
        used |= {tensor.name for tensor in outputs.values()}
        result, indices = Subgraph(self.name), {}

        def index(tensor: Tensor) -> int:
            if tensor.name not in indices:
                content = self._contents.get(tensor.name)
                buffer = file.buffer(content) if content is not None else 0
                indices[tensor.name] = len(result.tensors)
                result.tensors.append(TensorRecord(tensor.name, tensor.dtype, tensor.shape, buffer))
            return indices[tensor.name]

        for name, tensor in self.inputs.items():
            if tensor.name in used or name in always:
                result.inputs[name] = index(tensor)
        for operator in operators:
            inputs = [ABSENT if tensor is None else index(tensor) for tensor in operator.inputs]
            made = [index(tensor) for tensor in operator.outputs]
            result.operators.append(OperatorRecord(operator.form, inputs, made, operator.options))
        result.outputs = {name: index(tensor) for name, tensor in outputs.items()}
        return result

    def _live(self, outputs: Any) -> list[Operator]:
        needed = {tensor.name for tensor in outputs}
        live: list[Operator] = []
        for operator in reversed(self.operators):
            if any(tensor.name in needed for tensor in operator.outputs):
                needed |= {tensor.name for tensor in operator.inputs if tensor is not None}
                live.append(operator)
        return live[::-1]

    def _checked(self, dtype: str) -> str:
        if dtype not in TENSOR_TYPES:
            raise UnsupportedError("KX230", f"TFLite has no tensors of `{dtype}` that its operators take (near {self._scope or self.name})")
        return dtype

    def _unique(self, name: str) -> str:
        number, candidate = 1, name
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate
