"""The numpy reference: runs a graph by evaluating each node with its op's rule. Slow, plain, and the meaning of everything else.

    caches = new_caches(graph, batch=2, total=64)
    outputs = run(graph, {"token_ids": ids, "positions": positions, "lengths": lengths}, weights, caches)
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
from kexport.graphs.dims import BATCH, TOTAL
from kexport.graphs.ir import Graph
from kexport.graphs.ops import Evaluation, spec_of
from kexport.graphs.ops.spec import Array
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InternalError

Caches = MutableMapping[str, list[Array]]


def new_caches(graph: Graph, batch: int, total: int) -> dict[str, list[Array]]:
    """Zeroed caches for every slot: [keys, values], each [batch, total, num_key_value_heads, dim]; for every state: [one array [batch, *shape]]."""
    caches: dict[str, list[Array]] = {}
    for name, slot in graph.slots.items():
        shape = (batch, total, slot.num_key_value_heads)
        caches[name] = [np.zeros((*shape, dim), numpy_dtype(slot.dtype)) for dim in (slot.head_dim, slot.value_head_dim)]
    for name, state in graph.states.items():
        caches[name] = [np.zeros((batch, *state.shape), numpy_dtype(state.dtype))]
    return caches


def bind_dims(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, int]:
    """The size of every named dim, read off the inputs.

    Raises:
        InternalError: an input is missing, or its shape contradicts the declared one.
    """
    bindings: dict[str, int] = {}
    for name, type_ in graph.inputs.items():
        if name not in feeds:
            raise InternalError("KX906", f"graph `{graph.name}`: input `{name}` is not fed")
        shape = np.shape(feeds[name])
        if len(shape) != len(type_.shape):
            raise InternalError("KX906", f"input `{name}` is {type_}, got shape {shape}")
        for dim, size in zip(type_.shape, shape, strict=True):
            expected = bindings.setdefault(dim, size) if isinstance(dim, str) else dim
            if expected != size:
                raise InternalError("KX906", f"input `{name}` is {type_}, got shape {shape} where {dim} is {expected}")
    return bindings


def run(
    graph: Graph, feeds: Mapping[str, Any], weights: WeightSource | None = None, caches: Caches | None = None, **dims: int
) -> dict[str, Array]:
    """Evaluate the graph. Caches are changed in place; states are read from them and written back, and may be fed instead. `dims` binds names
    that no input carries.

    Raises:
        InternalError: an input is missing or has another shape, or a weight is needed and no source is given.
    """
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    kept = [name for name in graph.states if caches and name in caches and name not in arrays]
    arrays |= {name: caches[name][0] for name in kept} if caches else {}
    bindings = {**bind_dims(graph, arrays), **dims}
    self_caches = [parts for name, parts in (caches or {}).items() if name in graph.slots and graph.slots[name].kind == "self"]
    if self_caches:
        bindings.setdefault(TOTAL, self_caches[0][0].shape[1])
        bindings.setdefault(BATCH, self_caches[0][0].shape[0])
    evaluation = Evaluation(bindings, caches if caches is not None else {})
    values: dict[str, Any] = {**graph.constants, **{name: arrays[name] for name in graph.inputs}}
    for node in graph.nodes:
        for name in node.inputs:
            if name in graph.weights and name not in values:
                if weights is None:
                    raise InternalError("KX906", f"graph `{graph.name}` needs the weight {graph.weights[name].label}, no source is given")
                values[name] = graph.weights[name].materialize(weights)
        results = spec_of(node).evaluate(evaluation, node, [values[name] if name else None for name in node.inputs])
        values.update(zip(node.outputs, results, strict=True))
    outputs = {output: values[name] for output, name in graph.outputs.items()}
    for name in kept:
        caches[name][0] = outputs[name]  # type: ignore[index]  # kept is empty without caches
    return outputs
