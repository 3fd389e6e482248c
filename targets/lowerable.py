"""Graphs as a target can render them: what it has no lowering for is decomposed, sizes that a signature or a branch fixes are put in before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kexport.graphs.dims import Dim, Shape, in_pieces, pieces, product
from kexport.graphs.ir import Graph, Node, TensorType
from kexport.graphs.passes import Pass, run_passes
from kexport.runtime.contract.errors import UnsupportedError

DIM_ATTRIBUTES = ("shape", "size", "dim", "depth")


def lowerable(
    graph: Graph, lowerings: Collection[str], refusal: Callable[[str, str], UnsupportedError], passes: Sequence[Pass] = ()
) -> Graph:
    """`graph` with every op outside `lowerings` decomposed and the target's own `passes` run; the graph itself where there is nothing to do,
    else a copy. `refusal`: the target's own error for an op (its name, then " in layer ..." or nothing).

    Raises:
        UnsupportedError: the `refusal` of an op that has neither a lowering nor a decomposition.
    """
    wanting = any(node.op not in lowerings for node in graph.nodes)
    if not wanting and not passes:
        return graph
    graph = graph.copy()
    if wanting:
        from kexport.graphs.passes.decompose import decompose

        decompose(graph, keep=set(lowerings))
        for node in graph.nodes:
            if node.op not in lowerings:
                place = f" in layer {node.layer}" if node.layer else ""
                raise refusal(node.op, place)
    run_passes(graph, passes)
    return graph


def bound(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """A copy of `graph` with the named dims in `sizes` fixed: what an intrinsic is decomposed into may depend on them."""
    graph = graph.copy()
    graph.inputs = {name: _bound_type(type_, sizes) for name, type_ in graph.inputs.items()}
    graph.types = {name: _bound_type(type_, sizes) for name, type_ in graph.types.items()}
    for node in graph.nodes:
        node.attrs = {name: _bound_attribute(value, sizes) if name in DIM_ATTRIBUTES else value for name, value in node.attrs.items()}
    return graph


def taken_apart(graph: Graph, node: Node, lowerings: Collection[str], sizes: Mapping[str, int]) -> Graph:
    """A graph of `node` alone, its inputs and outputs named as the node's, decomposed for the case that dims have these `sizes`."""
    alone = Graph(f"{node.op}:{node.output}")
    for name in dict.fromkeys(node.inputs):
        alone.add_input(name, graph.type_of(name).dtype, graph.type_of(name).shape)
    alone.types |= {name: graph.type_of(name) for name in node.outputs}
    alone.nodes.append(Node(node.op, node.inputs, node.outputs, dict(node.attrs), node.layer))
    alone.outputs = {name: name for name in node.outputs}
    alone = bound(alone, sizes)
    from kexport.graphs.passes.decompose import decompose

    decompose(alone, keep=set(lowerings) - {node.op})
    return alone


def _bound_type(type_: TensorType, sizes: Mapping[str, int]) -> TensorType:
    return TensorType(type_.dtype, _bound_shape(type_.shape, sizes))


def _bound_attribute(value: Any, sizes: Mapping[str, int]) -> Any:
    return _bound_shape(value, sizes) if isinstance(value, tuple) else _bound_dim(value, sizes)


def _bound_shape(shape: Shape, sizes: Mapping[str, int]) -> Shape:
    return tuple(_bound_dim(dim, sizes) for dim in shape)


def _bound_dim(dim: Dim, sizes: Mapping[str, int]) -> Dim:
    return dim if isinstance(dim, int) else product(_bound_part(part, sizes) for part in dim.split("*"))


def _bound_part(part: str, sizes: Mapping[str, int]) -> Dim:
    cut = in_pieces(part)
    if cut is not None:
        return pieces(sizes.get(cut[0], cut[0]), cut[1])
    return int(part) if part.isdigit() else sizes.get(part, part)
