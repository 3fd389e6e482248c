"""A value computed for every token from one start index becomes a table over all positions, of which each row takes its own.

    c = cos((start_index + range(sequence)) * frequencies); c * x
    ->  t = cos((0 + range(total)) * frequencies); gather(t, positions) * x

This is what lets a rotary embedding that stays plain ops serve rows of different lengths. The table is the same ops with `total` for
`sequence` and 0 for the start; it is compared with the original on probe sizes, number by number.
Refused (noted by the pass for masks that follows): values with other named sizes, values whose reader is no elementwise op over the
batch, values that do not depend on each token's position alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.graphs.dims import BATCH, SEQUENCE, TOTAL, product
from kexport.graphs.ir import Attribute, Graph, Node
from kexport.graphs.ops.elementwise import BINARY
from kexport.graphs.passes.base import Pass, Result, refresh_types
from kexport.graphs.passes.classify_masks import CHUNKS, POSITIONS_INPUT, START_INDEX, run_part
from kexport.graphs.passes.masks_from_positions import start_frontier
from kexport.graphs.passes.subgraph import ancestors, cut_out

DIM_ATTRIBUTES = frozenset({"shape", "size", "dim", "depth"})


def _over_total(attribute: Attribute) -> Attribute:
    """The attribute with `total` where it says `sequence`."""
    if isinstance(attribute, tuple):
        return tuple(_over_total(item) for item in attribute)
    if isinstance(attribute, str):
        return product(TOTAL if name == SEQUENCE else int(name) if name.isdigit() else name for name in attribute.split("*"))
    return attribute


def _sequence_axis(graph: Graph, value: str) -> int | None:
    """The axis of `sequence`, where every other size is fixed and those in front of it are 1."""
    shape = graph.type_of(value).shape
    if shape.count(SEQUENCE) != 1:
        return None
    axis = shape.index(SEQUENCE)
    fixed = all(isinstance(size, int) for position, size in enumerate(shape) if position != axis)
    return axis if fixed and all(size == 1 for size in shape[:axis]) else None


class TablesFromPositions(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        if START_INDEX not in graph.inputs or POSITIONS_INPUT not in graph.inputs:
            return
        for value, first_reader in start_frontier(graph):
            axis = _sequence_axis(graph, value)
            readers = [node for node in graph.nodes if value in node.inputs]
            if axis is None or value in graph.outputs.values() or any(not self._fits(graph, node) for node in readers):
                continue
            table = self._table(graph, value, first_reader)
            if not self._agrees(graph, value, table, axis):
                continue
            for reader in readers:
                rows = self._rows(graph, table, axis, reader)
                reader.inputs = tuple(rows if name == value else name for name in reader.inputs)
            result.changes += 1
        refresh_types(graph)

    def _fits(self, graph: Graph, reader: Node) -> bool:
        shape = graph.type_of(reader.output).shape
        return reader.op in BINARY and len(shape) > 1 and shape[0] == BATCH and SEQUENCE in shape[1:]

    def _table(self, graph: Graph, value: str, before: Node) -> str:
        """The same ops over all positions, from 0 on."""
        nodes, _ = ancestors(graph, [value])
        renamed = {START_INDEX: graph.add_constant(np.int32(0))}
        for node in nodes:
            attrs = {name: _over_total(item) if name in DIM_ATTRIBUTES else item for name, item in node.attrs.items()}
            inputs = [renamed.get(name, name) for name in node.inputs]
            renamed[node.output] = graph.add_node(node.op, inputs, layer=node.layer, before=before, **attrs)  # type: ignore[arg-type]
        return renamed[value]

    def _agrees(self, graph: Graph, value: str, table: str, axis: int) -> bool:
        part = cut_out(graph, [value, table])
        for probe in CHUNKS:
            outputs: dict[str, Any] = run_part(part, probe)
            wanted = np.take(outputs[table], probe.start + np.arange(probe.sequence), axis=axis)
            if not np.array_equal(outputs[value], wanted):
                return False
        return True

    def _rows(self, graph: Graph, table: str, axis: int, reader: Node) -> str:
        """[batch, 1..., sequence, rest]: each row's own entries, so that they lie on the reader's result."""
        shape, rank = graph.type_of(table).shape, len(graph.type_of(reader.output).shape)
        rest = shape[axis + 1 :]
        flat = graph.add_node("reshape", [table], shape=(TOTAL, *rest), layer=reader.layer, before=reader)
        taken = graph.add_node("gather", [flat, POSITIONS_INPUT], axis=0, layer=reader.layer, before=reader)
        between = (1,) * (rank - len(rest) - 2)
        return graph.add_node("reshape", [taken], shape=(BATCH, *between, SEQUENCE, *rest), layer=reader.layer, before=reader)
