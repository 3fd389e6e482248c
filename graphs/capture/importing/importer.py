"""A traced TensorFlow function -> a Graph.

Every TensorFlow op type has one rule (`@imports("AddV2")`) in this folder; a marker becomes its intrinsic. Six kinds of imported
values are kept apart, so that shape arithmetic disappears and weights stay references:

    GraphValue     computed by nodes of the graph
    Sizes          an integer tensor whose numbers are dims, fixed or named
    Constant       known numbers
    WeightValue    a parameter under layout transforms
    CacheValue     a view of a cache, as it stood before the call
    ComputedShape  a shape with entries that are not dims
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from kexport.graphs.capture.names import ParameterNames
from kexport.graphs.capture.slots import find_cache
from kexport.graphs.capture.trace import Marker, Trace
from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, TOTAL, Dim, Shape
from kexport.graphs.interpreter import run
from kexport.graphs.ir import ABSENT, Graph, Slot
from kexport.graphs.ops.attention import KEY, VALUE
from kexport.graphs.passes.subgraph import ancestors, cut_out
from kexport.graphs.weights import Parameter, Weight
from kexport.runtime.contract.errors import InternalError, UnsupportedError
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class GraphValue:
    name: str


@dataclass(frozen=True, slots=True)
class Sizes:
    dims: tuple[Dim, ...]
    scalar: bool


@dataclass(frozen=True, slots=True)
class Constant:
    array: NDArray[Any]


@dataclass(frozen=True, slots=True)
class WeightValue:
    weight: Weight


@dataclass(frozen=True, slots=True)
class CacheValue:
    """A cache placeholder or a cut of one: its shape is known, its numbers are a slot's."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class ComputedShape:
    """A small integer vector packed from scalars of which some are computed; only slicing looks into it."""

    length: int


Imported = GraphValue | Sizes | Constant | WeightValue | CacheValue | ComputedShape
Rule = Callable[["Importer", tf.Operation], None]
RULES: dict[str, Rule] = {}
FLOAT_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})
COMPUTE_DTYPE = "float32"


def imports(*op_types: str) -> Callable[[Rule], Rule]:
    """Register the rule of one or more TensorFlow op types."""

    def register(rule: Rule) -> Rule:
        for op_type in op_types:
            RULES[op_type] = rule
        return rule

    return register


def graph_dtype(dtype: tf.DType) -> str:
    """The graph's dtype for a traced one: every float computes in float32, whatever the original's policy."""
    return COMPUTE_DTYPE if dtype.name in FLOAT_DTYPES else str(dtype.name)




class Importer:
    """Imports what the wanted outputs need. Use `import_function`."""

    def __init__(self, graph: Graph, trace: Trace, function: Any, variables: Iterable[keras.Variable]) -> None:
        self.graph = graph
        self.trace = trace
        self.function_graph = function.graph
        self.values: dict[str, Imported] = {}
        self._layer = ""
        variables = list(variables)
        self._names = ParameterNames(variables)
        handles = {id(variable.value.handle): variable for variable in variables if hasattr(variable.value, "handle")}
        self._captured: dict[str, keras.Variable | tf.Tensor] = {
            placeholder.name: handles.get(id(outer), outer) for outer, placeholder in function.graph.captures
        }

    # ---- reading imported values

    def get(self, tensor: tf.Tensor) -> Imported:
        """What `tensor` was imported as."""
        return self.values[tensor.name]

    def sizes(self, tensor: tf.Tensor) -> tuple[Dim, ...] | None:
        """The dims of an integer tensor, where they are known; a scalar gives one."""
        imported = self.get(tensor)
        if isinstance(imported, Sizes):
            return imported.dims
        if isinstance(imported, Constant) and imported.array.dtype.kind in "iuf" and imported.array.ndim <= 1:
            flat = imported.array.reshape(-1)
            return tuple(int(number) for number in flat) if np.array_equal(flat, np.trunc(flat)) else None
        return None

    def needed_sizes(self, op: tf.Operation, index: int) -> tuple[Dim, ...]:
        """The dims of input `index`, which this op's rule needs.

        Raises:
            UnsupportedError: they depend on the data.
        """
        sizes = self.sizes(op.inputs[index])
        if sizes is None:
            raise self.refuse(op, f"its input {index} (a shape) depends on the data")
        return sizes

    def constant(self, tensor: tf.Tensor) -> NDArray[Any] | None:
        """The numbers of a constant, None for anything else."""
        imported = self.get(tensor)
        if isinstance(imported, Constant):
            return imported.array
        if isinstance(imported, Sizes) and all(isinstance(dim, int) for dim in imported.dims):
            array = np.asarray(imported.dims, tensor.dtype.as_numpy_dtype)
            return array[0] if imported.scalar else array
        return None

    def needed_constant(self, op: tf.Operation, index: int) -> NDArray[Any]:
        """The numbers of input `index`, which this op's rule needs.

        Raises:
            UnsupportedError: they are not constant.
        """
        array = self.constant(op.inputs[index])
        if array is None:
            raise self.refuse(op, f"its input {index} is not constant")
        return array

    def computed_constant(self, op: tf.Operation, index: int) -> NDArray[Any]:
        """The numbers of input `index`, worked out where nodes of the graph compute them from constants alone.

        Raises:
            UnsupportedError: they depend on something else.
        """
        known = self.constant(op.inputs[index])
        if known is not None:
            return known
        name = self.value(op.inputs[index])
        nodes, leaves = ancestors(self.graph, [name])
        if leaves or any("slot" in node.attrs for node in nodes):
            raise self.refuse(op, f"its input {index} is not constant")
        return np.asarray(run(cut_out(self.graph, [name]), {})[name])

    def is_computed_shape(self, tensor: tf.Tensor) -> bool:
        """Whether `tensor` is a shape with entries that are not dims."""
        return isinstance(self.get(tensor), ComputedShape)

    def weight(self, tensor: tf.Tensor) -> Weight | None:
        """The weight expression of a parameter tensor, None for anything else."""
        imported = self.get(tensor)
        return imported.weight if isinstance(imported, WeightValue) else None

    def value(self, tensor: tf.Tensor) -> str:
        """The graph value that holds `tensor`, added to the graph if it is not there yet."""
        imported = self.get(tensor)
        if isinstance(imported, GraphValue):
            return imported.name
        if isinstance(imported, WeightValue):
            return self.graph.add_weight(imported.weight.cast(COMPUTE_DTYPE) if imported.weight.dtype in FLOAT_DTYPES else imported.weight)
        if isinstance(imported, CacheValue):
            return self._cache_value(tensor)
        if isinstance(imported, ComputedShape):
            raise self.refuse(tensor.op, "a shape with computed entries is used as a value")
        if isinstance(imported, Constant):
            array = imported.array
            wanted = graph_dtype(tensor.dtype)
            return self.graph.add_constant(array.astype(wanted) if array.dtype.name != wanted else array)
        return self._sizes_value(imported, graph_dtype(tensor.dtype))

    def _cache_value(self, tensor: tf.Tensor) -> str:
        view = find_cache(self.trace, tensor)
        if view is None:
            raise self.refuse(tensor.op, "it reads a cache other than by layer and part")
        return self.node("cache_read", [], slot=view.slot, part=view.part)

    def _sizes_value(self, sizes: Sizes, dtype: str) -> str:
        parts = [self._dim_value(dim, dtype) for dim in sizes.dims]
        if sizes.scalar:
            return parts[0]
        return self.node("concat", [self.node("reshape", [part], shape=(1,)) for part in parts], axis=0)

    def _dim_value(self, dim: Dim, dtype: str) -> str:
        if isinstance(dim, int):
            return self.graph.add_constant(np.asarray(dim, dtype))
        size = self.node("dim_size", [], dim=dim)
        return size if dtype == "int32" else self.node("cast", [size], dtype=dtype)

    def shape(self, tensor: tf.Tensor) -> tuple[Dim, ...]:
        """The shape of an imported tensor, with named dims; of what a cache holds after a write also where nothing but its shape is needed."""
        if tensor.name not in self.values and self._is_written_cache(tensor):
            return self._written_shape(tensor)
        imported = self.get(tensor)
        if isinstance(imported, GraphValue):
            return self.graph.type_of(imported.name).shape
        if isinstance(imported, WeightValue):
            return imported.weight.shape
        if isinstance(imported, CacheValue):
            return imported.shape
        if isinstance(imported, ComputedShape):
            return (imported.length,)
        if isinstance(imported, Constant):
            return imported.array.shape
        return () if imported.scalar else (len(imported.dims),)

    def _is_written_cache(self, tensor: tf.Tensor) -> bool:
        marker = self.trace.marker_of(tensor.op)
        return marker is not None and marker.op == "cache_write"

    def _written_shape(self, tensor: tf.Tensor) -> tuple[Dim, ...]:
        view = find_cache(self.trace, tensor)
        assert view is not None
        length = TOTAL if view.slot.startswith("self.") else ENCODER_SEQUENCE
        return (BATCH, length, *(int(size) for size in tensor.shape[2:]))

    # ---- adding

    def node(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        """Add a node of the grammar; returns its output."""
        return self.graph.add_node(op, inputs, layer=self._layer, **attrs)

    def nodes(self, op: str, inputs: Sequence[str], count: int, **attrs: Any) -> tuple[str, ...]:
        """Add a node with `count` outputs."""
        return self.graph.add_nodes(op, inputs, count, layer=self._layer, **attrs)

    def set(self, tensor: tf.Tensor, imported: Imported | str) -> None:
        """Record what `tensor` is; a plain string is a graph value. Checked against TensorFlow's static shape."""
        imported = GraphValue(imported) if isinstance(imported, str) else imported
        self.values[tensor.name] = imported
        if tensor.shape.rank is not None:
            ours = self.shape(tensor)
            known = list(tensor.shape)
            same = len(ours) == len(known) and all(not isinstance(a, int) or b is None or a == b for a, b in zip(ours, known, strict=True))
            if not same:
                raise InternalError("KX907", f"import of {tensor.name}: our rule gives shape {ours}, TensorFlow {known}")

    def refuse(self, op: tf.Operation, why: str) -> UnsupportedError:
        """The error for an op that cannot be imported."""
        place = f" in {self._layer}" if self._layer else ""
        return UnsupportedError(
            "KX201",
            f"cannot capture TensorFlow op `{op.type}` ({op.name}){place}: {why}",
            hint="the model does something kexport's graph has no form for; see docs/extending.md on adapters",
        )

    # ---- walking

    def run(self, wanted: dict[str, tf.Tensor]) -> None:
        """Import everything `wanted` needs and set the graph's outputs."""
        needed = self._needed(list(wanted.values()))
        for op in self.function_graph.get_operations():
            if op.name in needed:
                self._import(op)
        for name, tensor in wanted.items():
            self.graph.outputs[name] = self.value(tensor)

    def _needed(self, tensors: list[tf.Tensor]) -> builtins.set[str]:
        needed: builtins.set[str] = builtins.set()  # `set` is a method here
        stack = [tensor.op for tensor in tensors]
        while stack:
            op = stack.pop()
            if op.name in needed:
                continue
            needed.add(op.name)
            if op.type == "Shape" and self._is_written_cache(op.inputs[0]):
                continue  # a length alone: the write is the attention's
            marker = self.trace.marker_of(op)
            sources = op.inputs if marker is None else [item for item in marker.inputs if isinstance(item, tf.Tensor)]
            stack += [tensor.op for tensor in sources]
        return needed

    def _import(self, op: tf.Operation) -> None:
        marker = self.trace.marker_of(op)
        if marker is not None:
            self._layer = marker.layer
            self._import_marker(op, marker)
            self._layer = ""
            return
        if op.type == "Placeholder":
            self._import_placeholder(op)
            return
        rule = RULES.get(op.type)
        if rule is None:
            raise self.refuse(op, "there is no rule for it")
        rule(self, op)

    def _import_placeholder(self, op: tf.Operation) -> None:
        tensor = op.outputs[0]
        captured = self._captured.get(tensor.name)
        if captured is None:
            if tensor.name in self.trace.caches:
                self.set(tensor, CacheValue(self.trace.cache_shape(tensor)))
            elif tensor.name in self.trace.states:
                self.set(tensor, self.trace.states[tensor.name])
            elif op.name in self.graph.inputs:
                self.set(tensor, op.name)
            return
        if isinstance(captured, keras.Variable):
            parameter = Parameter(tuple(captured.shape), keras.backend.standardize_dtype(captured.dtype), self._names.of(captured))
            self.values[tensor.name] = WeightValue(parameter)
        elif captured.dtype == tf.resource:
            raise self.refuse(op, "it reads a variable that is not the model's")
        else:
            with tf.init_scope():
                self.set(tensor, Constant(np.asarray(captured)))

    def _import_marker(self, op: tf.Operation, marker: Marker) -> None:
        inputs = [self._marker_input(item) for item in marker.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        attrs: dict[str, Any] = dict(marker.attrs)
        if attrs.get("slot") and attrs.get("write"):
            self._fit_slot(attrs["slot"], inputs)
        outputs = self.graph.add_nodes(marker.op, inputs, len(op.outputs), layer=marker.layer, **attrs) if len(op.outputs) > 1 else ()
        for target, output in zip(op.outputs, outputs or (self.graph.add_node(marker.op, inputs, layer=marker.layer, **attrs),), strict=True):
            self.set(target, output)

    def _fit_slot(self, name: str, inputs: list[str]) -> None:
        """A cache stacked from layers of different heads is as wide as its widest layer; a slot holds what its own layer writes."""
        keys, values = (self.graph.type_of(inputs[index]).shape for index in (KEY, VALUE))
        slot = self.graph.slots[name]
        self.graph.slots[name] = Slot(slot.kind, int(keys[-2]), int(keys[-1]), int(values[-1]), slot.dtype)

    def _marker_input(self, item: Any) -> str:
        if item is None:
            return ABSENT
        if isinstance(item, keras.Variable):
            weight = Parameter(tuple(item.shape), keras.backend.standardize_dtype(item.dtype), self._names.of(item))
            return self.graph.add_weight(weight.cast(COMPUTE_DTYPE))
        return self.value(item) if tf.is_tensor(item) else self.graph.add_constant(item)


def import_function(
    graph: Graph, trace: Trace, function: Any, wanted: dict[str, tf.Tensor], variables: Iterable[keras.Variable]
) -> Graph:
    """Fill `graph` (whose inputs and slots are declared) from a traced function; `wanted`: output name -> tensor of that function.

    Raises:
        UnsupportedError: an op has no rule, named with its layer.
    """
    Importer(graph, trace, function, variables).run(wanted)
    return graph
