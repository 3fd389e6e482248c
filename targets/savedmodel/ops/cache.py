"""cache_write and cache_read: a slot's part, heads behind positions again, for attention that stayed plain ops."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.runtime.contract.manifest import Fusion
from kexport.targets.savedmodel.attention import HEADS_FIRST, slot_shape, write
from kexport.targets.savedmodel.builder import Builder
from kexport.targets.savedmodel.lowering import lowers

FORM = "plain operators over a transposed cache"
WHY = "the layer's attention was not recognised: its cache is turned over at every call"


@lowers("cache_write")
def lower_write(node: Node, b: Builder) -> None:
    """Write x at the row's positions and give the whole part [batch, length, heads, dim]."""
    slot, part = str(attribute(node, "slot")), int(attribute(node, "part"))
    write(b, slot, part, node.input(0), node.input(1))
    _give(node, b, slot, part)


@lowers("cache_read")
def lower_read(node: Node, b: Builder) -> None:
    """The whole part as it stands."""
    _give(node, b, str(attribute(node, "slot")), int(attribute(node, "part")))


def _give(node: Node, b: Builder, slot: str, part: int) -> None:
    b.set(node.output, b.transpose(b.slots[slot].now[part], slot_shape(b, slot, part), HEADS_FIRST))
    if part == 0:
        b.fusions.append(Fusion(layer=node.layer or slot, form=FORM, fused=False, reason=WHY))
