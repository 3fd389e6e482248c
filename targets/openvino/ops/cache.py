"""cache_write -> the state with the new tokens behind it, cache_read -> the state; both in the order of the text [batch, total, heads, dim]."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import Fusion
from kexport.targets.openvino.attention import append, in_text_order, slot_part
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.lowering import lowers


@lowers("cache_write")
def lower_write(node: Node, b: Builder) -> None:
    """Append the new keys or values and give the whole part."""
    slot, part = str(attribute(node, "slot")), int(attribute(node, "part"))
    if not b.is_position_input(node.input(1)):
        raise UnsupportedError("KX217", f"cache slot `{slot}` is written at computed positions; the OpenVINO target appends to the end only")
    whole = append(b, slot, part, b.heads_first(node.input(0)))
    b.set_heads_first(node.output, in_text_order(b, whole))
    if part == 0:
        reason = "the capture kept this attention as plain ops"
        b.fusions.append(Fusion(layer=node.layer or slot, form="state", fused=False, reason=reason))


@lowers("cache_read")
def lower_read(node: Node, b: Builder) -> None:
    """The part as it stands."""
    slot, part = str(attribute(node, "slot")), int(attribute(node, "part"))
    whole = slot_part(b, slot, part)
    b.set_heads_first(node.output, whole if b.graph.slots[slot].kind == "cross" else in_text_order(b, whole))


