"""An attention node read out once, for the targets whose lowerings choose among several forms of attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kexport.graphs.dims import ENCODER_SEQUENCE, TOTAL, Dim, Shape
from kexport.graphs.ir import Graph, Node, Slot
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import KEY, QUERY

Fixed = Callable[[Dim, str, Node], int]


@dataclass(frozen=True, slots=True)
class Request:
    """An attention node read out once. `window` and `softcap` are 0 where there is none."""

    node: Node
    slot_name: str
    slot: Slot | None
    write: bool
    causal: bool
    window: int
    softcap: float
    scale: float
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    batch: Dim
    sequence: Dim
    keys: Dim

    def input(self, index: int) -> str:
        """The value name of an input, `""` where absent."""
        return self.node.input(index)

    @property
    def layer(self) -> str:
        """How to call it in messages and in the manifest."""
        return self.node.layer or self.slot_name or self.node.output

    @property
    def flat_query(self) -> Shape:
        """[batch, sequence, heads * head_dim]."""
        return (self.batch, self.sequence, self.heads * self.head_dim)


def read(node: Node, graph: Graph, fixed: Fixed) -> Request:
    """Read an attention node out. `fixed`: makes a number of a size, or raises in the target's own words; it is given size, name, node."""
    query = graph.type_of(node.input(QUERY)).shape
    key = graph.type_of(node.input(KEY)).shape if node.input(KEY) else None
    slot_name = str(attribute(node, "slot") or "")
    slot = graph.slots[slot_name] if slot_name else None
    if slot is not None:
        keys: Dim = TOTAL if slot.kind == "self" else ENCODER_SEQUENCE
    else:
        assert key is not None
        keys = key[1]
    return Request(
        node=node,
        slot_name=slot_name,
        slot=slot,
        write=bool(attribute(node, "write")),
        causal=bool(attribute(node, "causal")),
        window=int(attribute(node, "window") or 0),
        softcap=float(attribute(node, "softcap") or 0),
        scale=float(attribute(node, "scale")),
        heads=fixed(query[2], "heads", node),
        kv_heads=slot.num_key_value_heads if slot else fixed((key or query)[2], "key-value heads", node),
        head_dim=fixed(query[3], "head size", node),
        value_dim=fixed(graph.type_of(node.output).shape[3], "head size", node),
        batch=query[0],
        sequence=query[1],
        keys=keys,
    )
