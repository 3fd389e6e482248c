"""Is a graph well formed? Run after every pass in tests and once before emission.

Checked: every op is in the table, with the inputs and attributes it takes; every value is produced once, before it is read; every
recorded type is what the op's rule infers; outputs exist; every slot named exists and is written once at most; every state is an input and
an output of the same type.
"""

from __future__ import annotations

from kexport.graphs.dims import BATCH
from kexport.graphs.ir import Graph, Node, TensorType
from kexport.graphs.ops import infer_types, spec_of
from kexport.graphs.ops.joint_attention import ATTENTION
from kexport.graphs.ops.spec import REQUIRED, attribute, refuse
from kexport.runtime.contract.errors import InternalError

PARTS = (0, 1)  # a slot's keys and values


def verify(graph: Graph) -> None:
    """Raise if the graph breaks the grammar.

    Raises:
        InternalError: names the graph, the node and what is wrong with it.
    """
    known = set(graph.inputs) | set(graph.constants) | set(graph.weights)
    writers: dict[str, Node] = {}
    for node in graph.nodes:
        _check_form(node)
        for name in node.inputs:
            if name and name not in known:
                raise refuse(node, f"reads `{name}` before it is produced")
        inferred = infer_types(graph, node)
        if len(inferred) != len(node.outputs):
            raise refuse(node, f"has {len(node.outputs)} outputs, its rule gives {len(inferred)}")
        for name, type_ in zip(node.outputs, inferred, strict=True):
            if name in known:
                raise refuse(node, f"produces `{name}` a second time")
            if graph.type_of(name) != type_:
                raise refuse(node, f"`{name}` is recorded as {graph.type_of(name)}, its rule gives {type_}")
            known.add(name)
        _check_writer(node, writers)
    for output, name in graph.outputs.items():
        if name not in known:
            raise InternalError("KX903", f"graph `{graph.name}`: output `{output}` is `{name}`, which nothing produces")
    _check_states(graph)


def _check_states(graph: Graph) -> None:
    for name, state in graph.states.items():
        declared = TensorType(state.dtype, (BATCH, *state.shape))
        if graph.inputs.get(name) != declared:
            raise InternalError("KX903", f"graph `{graph.name}`: the state `{name}` is no input of type {declared}")
        if name not in graph.outputs or graph.type_of(graph.outputs[name]) != declared:
            raise InternalError("KX903", f"graph `{graph.name}`: the state `{name}` is no output of type {declared}")


def _check_form(node: Node) -> None:
    spec = spec_of(node)
    given = len(node.inputs)
    if given < spec.required_inputs or (given > len(spec.inputs) and not spec.variadic):
        raise refuse(node, f"takes inputs {spec.inputs}, got {node.inputs}")
    for index, name in enumerate(node.inputs):
        declared = spec.inputs[min(index, len(spec.inputs) - 1)]
        if not name and not declared.endswith("?"):
            raise refuse(node, f"input {declared} must be given")
    unknown = set(node.attrs) - set(spec.attrs)
    missing = {name for name, default in spec.attrs.items() if default is REQUIRED} - set(node.attrs)
    if unknown or missing:
        raise refuse(node, f"unknown attributes {sorted(unknown)}, missing {sorted(missing)}")


def _check_writer(node: Node, writers: dict[str, Node]) -> None:
    writes = node.op == "cache_write" or (node.op in ATTENTION and attribute(node, "write"))
    if not writes:
        return
    for part in (attribute(node, "part"),) if node.op == "cache_write" else PARTS:
        key = f"{node.attrs['slot']}:{part}"
        if key in writers:
            raise refuse(node, f"slot `{node.attrs['slot']}` is written twice")
        writers[key] = node
