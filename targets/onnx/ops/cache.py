"""cache_write -> ScatterND on the past tensor, cache_read -> the slot as it stands; both give [batch, total, heads, dim]."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.runtime.contract.manifest import Fusion
from kexport.targets.onnx.attention import HEADS_FIRST, slot_part, write_part
from kexport.targets.onnx.builder import Builder
from kexport.targets.onnx.lowering import lowers


@lowers("cache_write")
def lower_write(node: Node, b: Builder) -> None:
    """Write at each row's positions and give the whole part."""
    slot, part = str(attribute(node, "slot")), int(attribute(node, "part"))
    write_part(b, slot, part, b.value(node.input(0)), b.ids(node.input(1)))
    b.set(node.output, b.transpose(slot_part(b, slot, part), HEADS_FIRST))
    if part == 0:
        b.fusions.append(
            Fusion(layer=node.layer or slot, form="ScatterND", fused=False, reason="the capture kept this attention as plain ops")
        )


@lowers("cache_read")
def lower_read(node: Node, b: Builder) -> None:
    """The part as it stands."""
    b.set(node.output, b.transpose(slot_part(b, str(attribute(node, "slot")), int(attribute(node, "part"))), HEADS_FIRST))
