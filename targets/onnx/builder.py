"""Collects ONNX operators for one graph. Nothing here is protobuf or `onnx_ir` yet: see assemble.py.

A `Tensor` is a name with a type; an `Operator` makes tensors of tensors. Weights enter as references and stay references. Lowerings
write freely: what nothing reads in the end is dropped by assemble.py, so a Reshape or Split that a fused operator looked through
leaves no trace. Reshapes of reshapes go back to the first tensor of their chain (`reshape`), shared sub-expressions are written once
(`memo`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from kexport.graphs.dims import Dim, Shape, in_pieces
from kexport.graphs.ir import Graph, Node, Slot, TensorType
from kexport.graphs.weights import Casted, Weight
from kexport.runtime.contract.errors import InternalError, UnsupportedError
from kexport.runtime.contract.manifest import Experts, Fusion
from kexport.targets.base import EmitOptions
from numpy.typing import NDArray

CONTRIB = "com.microsoft"
POSITIONS = "positions"
COPY_DIM = 0
INFERRED_DIM = -1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An ONNX value: its name, dtype and shape of sizes and dim names."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Computed:
    """An initializer whose numbers are computed only when it is written."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Operator:
    """One ONNX node; `""` stands for an absent optional input. An attribute may be a `Branch`."""

    type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    attributes: dict[str, Any]
    name: str

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The graphs inside the operator."""
        return tuple(value for value in self.attributes.values() if isinstance(value, Branch))


@dataclass(frozen=True, slots=True)
class Branch:
    """A graph inside an operator; it reads tensors of the graph around it by their names."""

    name: str
    operators: tuple[Operator, ...]
    outputs: tuple[Tensor, ...]


@dataclass(slots=True)
class SlotTensors:
    """The tensors of one cache slot, keys then values: [batch, key-value heads, length, dim]. `present` is set by the slot's writer."""

    slot: Slot
    past: tuple[Tensor, Tensor]
    present_names: tuple[str, str]
    present: list[Tensor | None] = field(default_factory=lambda: [None, None])

    def now(self, part: int) -> Tensor:
        """The newest state: present once written, else past."""
        return self.present[part] or self.past[part]


class Builder:
    """The operators of one graph under construction."""

    def __init__(self, graph: Graph, options: EmitOptions) -> None:
        self.graph = graph
        self.options = options
        self.inputs: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.initializers: dict[str, Weight | Computed | NDArray[Any]] = {}
        self.slots: dict[str, SlotTensors] = {}
        self.fusions: list[Fusion] = []
        self.experts: list[Experts] = []
        self.producers = graph.producers()
        self.embedded = {graph.weights[node.input(0)] for node in graph.of_op("embedding") if node.input(0) in graph.weights}
        self._tensors: dict[str, Tensor] = {}
        self._wide_ids: dict[str, Tensor] = {}
        self._weights: dict[Weight, Tensor] = {}
        self._views: dict[str, dict[Shape, Tensor]] = {}
        self._dims: dict[str, tuple[Tensor, int]] = {}
        self._memo: dict[Any, Any] = {}
        self._names: set[str] = set()
        self._scope = ""

    # ---- inputs

    def add_input(self, name: str, dtype: str, shape: Shape) -> Tensor:
        """Declare an input; the dims it names can be read off it from now on."""
        tensor = self.inputs[name] = Tensor(self._unique(name), dtype, shape)
        for axis, dim in enumerate(shape):
            if isinstance(dim, str):
                self._dims.setdefault(dim, (tensor, axis))
        return tensor

    def set(self, name: str, tensor: Tensor) -> None:
        """Let graph value `name` be `tensor`."""
        self._tensors[name] = tensor

    def set_wide_ids(self, name: str, tensor: Tensor) -> None:
        """Remember the int64 form of an int32 graph input, for lookups that take it as it is."""
        self._wide_ids[name] = tensor

    def scope(self, node: Node) -> None:
        """Name the operators that follow after this graph node."""
        self._scope = f"{node.layer}/{node.output}" if node.layer else node.output

    def scope_end(self) -> None:
        """Name the operators that follow after themselves."""
        self._scope = ""

    # ---- graph values

    def value(self, name: str) -> Tensor:
        """The tensor of graph value `name`; weights and constants are entered at their first use."""
        if name in self._tensors:
            return self._tensors[name]
        if name in self.graph.weights:
            return self.weight(self.graph.weights[name])
        if name in self.graph.constants:
            return self.constant(self.graph.constants[name], name)
        raise InternalError("KX903", f"graph `{self.graph.name}`: `{name}` is read before it is produced")

    def optional(self, name: str) -> Tensor | None:
        """The tensor of `name`, None for `""`."""
        return self.value(name) if name else None

    def ids(self, name: str) -> Tensor:
        """An integer value for a lookup: the int64 input itself where the graph value is one, so that no Cast is needed."""
        return self._wide_ids.get(name) or self.value(name)

    def is_position_input(self, name: str) -> bool:
        """Whether `name` is the graph's own input of per-row positions, which count on from what each row's cache holds."""
        return name == POSITIONS and name in self.graph.inputs

    def type_of(self, name: str) -> TensorType:
        """The graph's type of value `name`."""
        return self.graph.type_of(name)

    def branch(self, graph: Graph, lower: Callable[[Node], None]) -> Branch:
        """`graph` as a branch, its nodes written by `lower`; its inputs are values of this graph. What is made inside is not seen outside."""
        outer = self.graph, self.operators, self._tensors, self._memo, self._views
        inputs = {name: Tensor(self.value(name).name, type_.dtype, type_.shape) for name, type_ in graph.inputs.items()}
        self.graph, self.operators, self._tensors, self._memo, self._views = graph, [], inputs, dict(self._memo), {}
        try:
            for node in graph.nodes:
                lower(node)
            return Branch(self._unique(graph.name), tuple(self.operators), tuple(self.value(name) for name in graph.outputs.values()))
        finally:
            self.graph, self.operators, self._tensors, self._memo, self._views = outer

    # ---- initializers

    def weight(self, weight: Weight) -> Tensor:
        """A weight as a tensor of its own dtype. Matrices are stored in `stored_dtype` and widened by a Cast; vectors are stored as they
        are, but with numbers rounded to `stored_dtype`, so that the oracle over the rounded weights sees the same ones."""
        narrow = self.stored_form(weight)
        if narrow.dtype == weight.dtype:
            return self.stored(narrow)
        return self.memo(("widened", narrow), lambda: self.op("Cast", [self.stored(narrow)], weight.dtype, weight.shape, to=weight.dtype))

    def stored_form(self, weight: Weight) -> Weight:
        """How `weight` is stored under `stored_dtype`."""
        stored = self.options.stored_dtype
        if weight.dtype != "float32" or stored == "float32":
            return weight
        if len(weight.shape) < 2:
            return weight.cast(stored).cast("float32")
        if isinstance(weight, Casted) and weight.of.dtype == stored:
            return weight.of  # the original's own numbers, not widened and narrowed again
        return weight.cast(stored)

    def stored(self, weight: Weight) -> Tensor:
        """The initializer of a weight, entered once, as it is stored."""
        if weight not in self._weights:
            name = self._unique(weight.label)
            self.initializers[name] = weight
            self._weights[weight] = Tensor(name, weight.dtype, weight.shape)
        return self._weights[weight]

    def constant(self, array: Any, name: str = "") -> Tensor:
        """An initializer with these numbers; equal ones are entered once."""
        array = np.asarray(array)
        key = ("constant", array.dtype.name, array.shape, array.tobytes())
        return self.memo(key, lambda: self._enter(array, name or "constant"))

    def integers(self, *numbers: int) -> Tensor:
        """An int64 vector."""
        return self.constant(np.array(numbers, np.int64))

    def number(self, value: float) -> Tensor:
        """A float32 scalar."""
        return self.constant(np.float32(value))

    def computed(self, name: str, computed: Computed) -> Tensor:
        """Enter an initializer that is computed when it is written."""
        tensor = Tensor(self._unique(name), computed.dtype, computed.shape)
        self.initializers[tensor.name] = computed
        return tensor

    def _enter(self, array: NDArray[Any], name: str) -> Tensor:
        tensor = Tensor(self._unique(name), array.dtype.name, array.shape)
        self.initializers[tensor.name] = array
        return tensor

    # ---- operators

    def op(
        self, type: str, inputs: Sequence[Tensor | None], dtype: str, shape: Shape, *, domain: str = "", name: str = "", **attributes: Any
    ) -> Tensor:
        """Write an operator with one output of this dtype and shape."""
        return self.operator(type, inputs, [(dtype, shape)], domain=domain, names=(name,), **attributes)[0]

    def operator(
        self,
        type: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[tuple[str, Shape]],
        *,
        domain: str = "",
        names: Sequence[str] = (),
        **attributes: Any,
    ) -> tuple[Tensor, ...]:
        """Write an operator with several outputs; `names` fixes output names where not empty."""
        given = [tensor.name if tensor else "" for tensor in inputs]
        while given and not given[-1]:
            given.pop()
        stem = f"{self._scope}/{type}" if self._scope else type
        made = []
        for index, (dtype, shape) in enumerate(outputs):
            fixed = names[index] if index < len(names) else ""
            made.append(Tensor(self._unique(fixed or stem), dtype, shape))
        self.operators.append(Operator(type, domain, tuple(given), tuple(made), attributes, self._unique(f"node:{stem}")))
        return tuple(made)

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """`tensor` in another dtype, written once."""
        if tensor.dtype == dtype:
            return tensor
        return self.memo(("cast", tensor.name, dtype), lambda: self.op("Cast", [tensor], dtype, tensor.shape, to=dtype))

    def memo(self, key: Any, make: Callable[[], T]) -> T:
        """What `make()` gives, made at the first request for `key`."""
        if key not in self._memo:
            self._memo[key] = make()
        result: T = self._memo[key]
        return result

    # ---- shapes

    def dim(self, dim: Dim) -> Tensor:
        """The size of a dim as int64 [1], read off an input; a product is multiplied out."""
        if isinstance(dim, int):
            return self.integers(dim)
        return self.memo(("dim", dim), lambda: self._measure(dim))

    def _measure(self, dim: str) -> Tensor:
        if dim in self._dims:
            tensor, axis = self._dims[dim]
            return self.op("Shape", [tensor], "int64", (1,), start=axis, end=axis + 1)
        cut = in_pieces(dim)
        if cut is not None:
            rounded = self.op("Add", [self.dim(cut[0]), self.integers(cut[1] - 1)], "int64", (1,))
            return self.op("Div", [rounded, self.integers(cut[1])], "int64", (1,))
        if "*" not in dim:
            raise InternalError("KX901", f"graph `{self.graph.name}`: no input carries the dim `{dim}`")
        first, rest = dim.split("*", 1)
        factor = self.dim(int(first) if first.isdigit() else first)
        return self.op("Mul", [factor, self.dim(int(rest) if rest.isdigit() else rest)], "int64", (1,))

    def shape(self, dims: Shape) -> Tensor:
        """`dims` as an int64 vector: a constant where all are fixed, else put together from the inputs' sizes."""
        if all(isinstance(dim, int) for dim in dims):
            return self.integers(*(int(dim) for dim in dims))
        if len(dims) == 1:
            return self.dim(dims[0])
        return self.memo(("shape", dims), lambda: self.op("Concat", [self.dim(dim) for dim in dims], "int64", (len(dims),), axis=0))

    def reshape(self, tensor: Tensor, shape: Shape) -> Tensor:
        """`tensor` in another shape. A shape that some tensor of the same chain of reshapes already has costs nothing."""
        views = self._views.setdefault(tensor.name, {tensor.shape: tensor})
        if shape not in views:
            made = self.op("Reshape", [tensor, self._reshape_target(tensor.shape, shape)], tensor.dtype, shape)
            views[shape] = made
            self._views[made.name] = views
        return views[shape]

    def _reshape_target(self, old: Shape, new: Shape) -> Tensor:
        """The shape operand: sizes, 0 for a dim kept in place, -1 for one that follows from the others."""
        target: list[int] = []
        for axis, dim in enumerate(new):
            kept = axis < len(old) and dim == old[axis]
            if isinstance(dim, int):
                target.append(dim)
            elif kept:
                target.append(COPY_DIM)
            elif INFERRED_DIM not in target:
                target.append(INFERRED_DIM)
            else:
                return self.shape(new)
        return self.integers(*target)

    def expand(self, tensor: Tensor, shape: Shape) -> Tensor:
        """`tensor` broadcast to `shape`."""
        if tensor.shape == shape:
            return tensor
        return self.op("Expand", [tensor, self.shape(shape)], tensor.dtype, shape)

    def transpose(self, tensor: Tensor, permutation: tuple[int, ...], name: str = "") -> Tensor:
        """`tensor` with its axes in a new order."""
        shape = tuple(tensor.shape[axis] for axis in permutation)
        return self.op("Transpose", [tensor], tensor.dtype, shape, perm=list(permutation), name=name)

    def range(self, dim: Dim) -> Tensor:
        """0, 1, 2, ... up to the size of `dim`, int64."""
        return self.memo(("range", dim), lambda: self._make_range(dim))

    def _make_range(self, dim: Dim) -> Tensor:
        if isinstance(dim, int):
            return self.constant(np.arange(dim, dtype=np.int64))
        zero, one = (self.constant(np.array(number, np.int64)) for number in (0, 1))
        stop = self.op("Squeeze", [self.dim(dim), self.integers(0)], "int64", ())
        return self.op("Range", [zero, stop, one], "int64", (dim,))

    # ---- names

    def _unique(self, name: str) -> str:
        number, candidate = 1, name
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate


def fixed(size: Dim, what: str, node: Node) -> int:
    """`size` as a number.

    Raises:
        UnsupportedError: it is a named dim.
    """
    if isinstance(size, int):
        return size
    raise UnsupportedError("KX210", f"{what} of layer {node.layer or node.output} has no fixed size (`{size}`), the ONNX target needs one")


_WORD = re.compile(r"[A-Za-z_]+")
ONNX_DIMS = {
    "batch": "batch_size",
    "sequence": "sequence_length",
    "total": "total_sequence_length",
    "encoder_sequence": "encoder_sequence_length",
    "past": "past_sequence_length",
    "present": "present_sequence_length",
}


def onnx_dim(dim: Dim) -> Dim:
    """A dim under the name that ONNX users expect."""
    return dim if isinstance(dim, int) else _WORD.sub(lambda match: ONNX_DIMS.get(match.group(), match.group()), dim)


__all__ = ["CONTRIB", "Branch", "Builder", "Computed", "Operator", "SlotTensors", "Tensor", "fixed", "onnx_dim"]
