"""What an op is: one `OpSpec` per op, in one table.

The same entry is the grammar (`verify`), the type rule (`infer_types`), the meaning (`evaluate`, numpy) and the reference page
(docs/ops.md). An op file calls `define(...)` once; `kexport.graphs.ops` imports all files of this folder, so a new op is a new file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.dims import Shape, evaluate
from kexport.runtime.contract.errors import InternalError
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

Array = NDArray[Any]
Types = Sequence["TensorType | None"]
Arrays = Sequence[Any]


@dataclass(slots=True)
class Evaluation:
    """What an op may look at while it is evaluated: the sizes of the named dims and the caches (slot -> [key, value] arrays)."""

    bindings: Mapping[str, int]
    caches: MutableMapping[str, list[Array]] = field(default_factory=dict)

    def shape(self, shape: Shape) -> tuple[int, ...]:
        """`shape` with every name replaced by its size."""
        return tuple(evaluate(dim, self.bindings) for dim in shape)


@dataclass(frozen=True, slots=True)
class Required:
    """Marks an attribute without default."""


REQUIRED = Required()
InferRule = Callable[["Graph", "Node", Types], "tuple[TensorType, ...]"]
EvaluateRule = Callable[[Evaluation, "Node", Arrays], "tuple[Any, ...]"]


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op. `inputs`: names, `?` behind an optional one, `*` behind one that repeats. `attrs`: name -> default or REQUIRED."""

    name: str
    summary: str
    inputs: tuple[str, ...]
    attrs: dict[str, Any]
    infer: InferRule
    evaluate: EvaluateRule
    intrinsic: bool

    @property
    def required_inputs(self) -> int:
        """How many inputs must be given."""
        return sum(1 for name in self.inputs if not name.endswith("?"))

    @property
    def variadic(self) -> bool:
        """Whether the last input repeats."""
        return bool(self.inputs) and self.inputs[-1].endswith("*")

    def attr(self, node: Node, name: str) -> Any:
        """The attribute's value, or its default."""
        return node.attrs.get(name, self.attrs[name])


OPS: dict[str, OpSpec] = {}


def define(
    name: str,
    summary: str,
    *,
    inputs: tuple[str, ...],
    infer: InferRule,
    evaluate: EvaluateRule,
    attrs: dict[str, Any] | None = None,
    intrinsic: bool = False,
) -> OpSpec:
    """Enter an op into the table."""
    if name in OPS:
        raise InternalError("KX904", f"op `{name}` is defined twice")
    OPS[name] = OpSpec(name, summary, inputs, dict(attrs or {}), infer, evaluate, intrinsic)
    return OPS[name]


def spec_of(node: Node) -> OpSpec:
    """The table's entry for a node.

    Raises:
        InternalError: the op is not in the table.
    """
    if node.op not in OPS:
        raise InternalError("KX904", f"unknown op `{node.op}`" + (f" in layer {node.layer}" if node.layer else ""))
    return OPS[node.op]


def attribute(node: Node, name: str) -> Any:
    """The attribute of a node, or its op's default."""
    return spec_of(node).attr(node, name)


def infer_types(graph: Graph, node: Node) -> tuple[TensorType, ...]:
    """The types of a node's outputs by its op's rule.

    Raises:
        InternalError: unknown op, or inputs the rule does not allow.
    """
    types = [graph.type_of(name) if name else None for name in node.inputs]
    return spec_of(node).infer(graph, node, types)


def refuse(node: Node, why: str) -> InternalError:
    """The error for a node that breaks its op's rule."""
    place = f" (layer {node.layer})" if node.layer else ""
    return InternalError("KX905", f"op `{node.op}`{place}: {why}")


def optional(values: Sequence[Any], index: int) -> Any:
    """Input `index`, None where absent."""
    return values[index] if index < len(values) else None


def float32_or_wider(array: Array) -> Array:
    """Low-precision floats widened to float32, as accelerated kernels accumulate."""
    return array.astype(np.float32) if array.dtype.itemsize < np.dtype(np.float32).itemsize else array
