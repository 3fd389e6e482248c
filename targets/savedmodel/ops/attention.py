"""attention -> targets/savedmodel/attention.py, in one form for all; what was rendered goes into the manifest."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.runtime.contract.manifest import Fusion
from kexport.targets.savedmodel.attention import lower_attention
from kexport.targets.savedmodel.builder import Builder
from kexport.targets.savedmodel.lowering import lowers

IN_PLACE = "cache written in place, grouped BatchMatMul"
OVER_GIVEN = "grouped BatchMatMul"


@lowers("attention")
def lower(node: Node, b: Builder) -> None:
    """Render, and say in which form."""
    lower_attention(node, b)
    form = IN_PLACE if attribute(node, "write") else OVER_GIVEN
    b.fusions.append(Fusion(layer=node.layer or node.output, form=form, fused=True))
