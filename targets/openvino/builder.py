"""Builds the OpenVINO operators of one graph.

Weights go into the `.bin` file at their first use and come back as constants over mapped memory. Values of four axes have two forms:
as the graph has them, [batch, sequence, heads, dim], and heads first, as attention and the rotary form want them; a form that nobody
reads leaves no operator. Shared sub-expressions are written once (`memo`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import openvino as ov
from kexport.graphs.dims import Dim, Shape, in_pieces
from kexport.graphs.ir import Graph, Node, TensorType
from kexport.graphs.weights import Weight, WeightSource
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InternalError, UnsupportedError
from kexport.runtime.contract.manifest import Experts, Fusion
from kexport.targets.base import EmitOptions
from kexport.targets.openvino.dtypes import element_type
from kexport.targets.openvino.weight_file import Place, WeightFile
from openvino import opset13 as op

HEADS_FIRST = (0, 2, 1, 3)
POSITIONS = "positions"
COPY_DIM = 0
INFERRED_DIM = -1
LAST_INDEX = np.iinfo(np.int64).max
T = TypeVar("T")
Output = Any  # ov.Output


def output_of(made: Any) -> Output:
    """The only output of an operator, or the output itself."""
    return made.output(0) if isinstance(made, ov.Node) else made


class Builder:
    """The operators of one graph under construction."""

    def __init__(self, graph: Graph, options: EmitOptions, weights: WeightSource, file: WeightFile) -> None:
        self.graph, self.options, self.weights, self.file = graph, options, weights, file
        self.parameters: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        self.sinks: list[Any] = []
        self.states: dict[str, tuple[str, str]] = {}
        self.past: dict[tuple[str, int], Output] = {}
        self.written: dict[tuple[str, int], Output] = {}
        self.fusions: list[Fusion] = []
        self.experts: list[Experts] = []
        self.places: dict[str, Place] = {}
        self.replaceable: dict[str, Weight] = {}
        self.matrix_bytes = 0
        self._multiplied: set[Weight] = set()
        self._values: dict[str, Output] = {}
        self._heads_first: dict[str, Output] = {}
        self._wide_ids: dict[str, Output] = {}
        self._dims: dict[str, tuple[Output, int]] = {}
        self._memo: dict[Any, Any] = {}

    # ---- inputs

    def add_input(self, name: str, dtype: str, shape: Shape) -> Output:
        """Declare an input; the dims it names can be read off it from now on."""
        parameter = op.parameter([-1 if isinstance(dim, str) else dim for dim in shape], element_type(dtype))
        parameter.set_friendly_name(name)
        parameter.output(0).get_tensor().set_names({name})
        self.parameters[name], self.shapes[name] = parameter, shape
        result = parameter.output(0)
        for axis, dim in enumerate(shape):
            if isinstance(dim, str):
                self._dims.setdefault(dim, (result, axis))
        return result

    def input(self, name: str) -> Output:
        """A declared input."""
        return self.parameters[name].output(0)

    # ---- graph values

    def set(self, name: str, made: Any) -> None:
        """Let graph value `name` be `made`."""
        self._values[name] = output_of(made)

    def set_heads_first(self, name: str, made: Any) -> None:
        """Let graph value `name` be `made` with its second and third axes exchanged."""
        self._heads_first[name] = output_of(made)

    def set_wide_ids(self, name: str, made: Any) -> None:
        """Remember the int64 form of an int32 graph input, for lookups that take it as it is."""
        self._wide_ids[name] = output_of(made)

    def value(self, name: str) -> Output:
        """The operator output of graph value `name`; weights and constants are entered at their first use."""
        if name not in self._values:
            if name in self._heads_first:
                self.set(name, self.transpose(self._heads_first[name], HEADS_FIRST))
            elif name in self.graph.weights:
                return self.weight(self.graph.weights[name])
            elif name in self.graph.constants:
                return self.constant(self.graph.constants[name])
            else:
                raise InternalError("KX903", f"graph `{self.graph.name}`: `{name}` is read before it is produced")
        return self._values[name]

    def heads_first(self, name: str) -> Output:
        """Graph value `name` [batch, sequence, heads, dim] as [batch, heads, sequence, dim]."""
        if name not in self._heads_first:
            self.set_heads_first(name, self.transpose(self.value(name), HEADS_FIRST))
        return self._heads_first[name]

    def optional(self, name: str) -> Output | None:
        """The value of `name`, None for `""`."""
        return self.value(name) if name else None

    def ids(self, name: str) -> Output:
        """An integer value for a lookup: the int64 input itself where the graph value is one."""
        return self._wide_ids[name] if name in self._wide_ids else self.value(name)

    def is_position_input(self, name: str) -> bool:
        """Whether `name` is the graph's own input of per-row positions, which count on from what each row's cache holds."""
        return name == POSITIONS and name in self.graph.inputs

    def type_of(self, name: str) -> TensorType:
        """The graph's type of value `name`."""
        return self.graph.type_of(name)

    # ---- constants

    def weight(self, weight: Weight, *, share: float = 1.0) -> Output:
        """A weight in its own dtype. Matrices are stored in `stored_dtype` and widened by a Convert; vectors are stored as they are, but
        with numbers rounded to `stored_dtype`, so that the oracle over the rounded weights sees the same ones.
        `share`: how much of it a call with one token reads."""
        self._count(weight, share)
        narrow = self.stored_form(weight)
        stored = self.stored(narrow)
        if narrow.dtype == weight.dtype:
            return stored
        return self.memo(("widened", narrow), lambda: output_of(op.convert(stored, element_type(weight.dtype).to_string())))

    def wide(self, weight: Weight, *, share: float = 1.0) -> Output:
        """A weight that is stored in its own dtype, with numbers rounded to `stored_dtype`: for operators that take constants only."""
        rounded = weight.cast(self.options.stored_dtype).cast(weight.dtype) if self.options.stored_dtype != weight.dtype else weight
        self._count(rounded, share)
        return self.stored(rounded)

    def _count(self, weight: Weight, share: float) -> None:
        if weight not in self._multiplied:
            self._multiplied.add(weight)
            self.matrix_bytes += round(share * weight.nbytes)

    def stored_form(self, weight: Weight) -> Weight:
        """How `weight` is stored under `stored_dtype`."""
        stored = self.options.stored_dtype
        if weight.dtype != "float32" or stored == "float32":
            return weight
        return weight.cast(stored) if len(weight.shape) > 1 else weight.cast(stored).cast("float32")

    def stored(self, weight: Weight) -> Output:
        """The constant of a weight, entered once, as it is stored."""
        return self.memo(("weight", weight), lambda: self._write_weight(weight))

    def _write_weight(self, weight: Weight) -> Output:
        if weight.label in self.places:
            raise InternalError("KX902", f"two different weights are called {weight.label}")
        dtype = numpy_dtype(weight.dtype)
        place = self.places[weight.label] = self.file.enter(weight, self.weights)
        if self.options.is_replaceable(weight):
            self.replaceable[weight.label] = weight
        plain = np.dtype(np.uint16) if weight.dtype == "bfloat16" else dtype  # OpenVINO knows numpy's own dtypes only
        array = self.file.mapped(place, plain, weight.shape)
        if weight.dtype == "bfloat16":
            made = op.constant(ov.Tensor(array, ov.Shape(list(weight.shape)), ov.Type.bf16), shared_memory=True)
            self.memo(("alive", weight), lambda: array)  # an ov.Tensor does not own the array
        else:
            made = op.constant(array, shared_memory=True)
        made.set_friendly_name(weight.label)
        return made.output(0)

    def constant(self, array: Any) -> Output:
        """A constant of the graph; equal ones are entered once."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        element_type(array.dtype.name)
        return self.memo(("constant", array.dtype.name, array.shape, array.tobytes()), lambda: output_of(op.constant(array)))

    def integers(self, *numbers: int) -> Output:
        """An int64 vector."""
        return self.constant(np.array(numbers, np.int64))

    def integer(self, number: int) -> Output:
        """An int64 scalar."""
        return self.constant(np.array(number, np.int64))

    def number(self, value: float, rank: int = 0) -> Output:
        """A float32 constant of `rank` axes of size 1."""
        return self.constant(np.full((1,) * rank, value, np.float32))

    def memo(self, key: Any, make: Callable[[], T]) -> T:
        """What `make()` gives, made at the first request for `key`."""
        if key not in self._memo:
            self._memo[key] = make()
        result: T = self._memo[key]
        return result

    # ---- shapes

    def dim(self, dim: Dim) -> Output:
        """The size of a dim as int64 [1], read off an input; a product is multiplied out."""
        if isinstance(dim, int):
            return self.integers(dim)
        return self.memo(("dim", dim), lambda: self._measure(dim))

    def scalar_dim(self, dim: Dim) -> Output:
        """The size of a dim as an int64 scalar."""
        return self.memo(("scalar dim", dim), lambda: output_of(op.squeeze(self.dim(dim), self.integers(0))))

    def _measure(self, dim: str) -> Output:
        if dim in self._dims:
            tensor, axis = self._dims[dim]
            return output_of(op.gather(op.shape_of(tensor, "i64"), self.integers(axis), self.integer(0)))
        cut = in_pieces(dim)
        if cut is not None:
            return output_of(op.divide(op.add(self.dim(cut[0]), self.integers(cut[1] - 1)), self.integers(cut[1])))
        if "*" not in dim:
            raise InternalError("KX901", f"graph `{self.graph.name}`: no input carries the dim `{dim}`")
        first, rest = dim.split("*", 1)
        factors = [self.dim(int(part) if part.isdigit() else part) for part in (first, rest)]
        return output_of(op.multiply(*factors))

    def shape(self, dims: Shape) -> Output:
        """`dims` as an int64 vector."""
        if all(isinstance(dim, int) for dim in dims):
            return self.integers(*(int(dim) for dim in dims))
        return self.memo(("shape", dims), lambda: output_of(op.concat([self.dim(dim) for dim in dims], 0)))

    def reshape(self, tensor: Any, old: Shape, new: Shape) -> Output:
        """`tensor` of shape `old` in shape `new`."""
        if old == new:
            return output_of(tensor)
        target: list[int] = []
        for axis, dim in enumerate(new):
            if axis < len(old) and dim == old[axis]:
                target.append(COPY_DIM)
            elif isinstance(dim, int):
                target.append(dim)
            elif INFERRED_DIM not in target:
                target.append(INFERRED_DIM)
            else:
                return output_of(op.reshape(tensor, self.shape(new), False))
        return output_of(op.reshape(tensor, self.integers(*target), True))

    def transpose(self, tensor: Any, permutation: tuple[int, ...]) -> Output:
        """`tensor` with its axes in a new order."""
        return output_of(op.transpose(tensor, self.integers(*permutation)))

    def unsqueeze(self, tensor: Any, *axes: int) -> Output:
        """`tensor` with new axes of size 1 at these places of the result."""
        return output_of(op.unsqueeze(tensor, self.integers(*axes)))

    def convert(self, tensor: Any, dtype: str) -> Output:
        """`tensor` in another dtype, written once."""
        tensor = output_of(tensor)
        wanted = element_type(dtype)
        if tensor.get_element_type() == wanted:
            return tensor
        key = ("convert", tensor.get_node().get_friendly_name(), tensor.get_index(), dtype)
        return self.memo(key, lambda: output_of(op.convert(tensor, wanted.to_string())))

    def range(self, dim: Dim) -> Output:
        """0, 1, 2, ... up to the size of `dim`, int64."""
        if isinstance(dim, int):
            return self.constant(np.arange(dim, dtype=np.int64))
        parts = (self.integer(0), self.scalar_dim(dim), self.integer(1))
        return self.memo(("range", dim), lambda: output_of(op.range(*parts, output_type="i64")))


def fixed(size: Dim, what: str, node: Node) -> int:
    """`size` as a number.

    Raises:
        UnsupportedError: it is a named dim.
    """
    if isinstance(size, int):
        return size
    raise UnsupportedError("KX210", f"{what} of layer {node.layer or node.output} has no fixed size (`{size}`), the OpenVINO target needs one")
