"""attention: the first of the three forms that takes the node. Which one, and why not a better one, goes into the manifest.

GroupQueryAttention   writes and reads a self cache in place                                  attention_gqa.py
MultiHeadAttention    over a cross cache or over given keys and values                        attention_mha.py
plain operators       everything else: MatMul, Softmax, MatMul                                attention_plain.py
"""

from __future__ import annotations

from collections.abc import Callable

from kexport.graphs.ir import Node
from kexport.runtime.contract.manifest import Fusion
from kexport.targets.onnx import attention_gqa, attention_mha, attention_plain
from kexport.targets.onnx.attention import Request, read
from kexport.targets.onnx.builder import Builder
from kexport.targets.onnx.lowering import lowers
from kexport.targets.onnx.unfusable import unfusable

Refuse = Callable[[Builder, Request], str]
Render = Callable[[Builder, Request], str]
FUSED: tuple[tuple[str, Refuse, Render], ...] = (
    ("GroupQueryAttention", attention_gqa.refuse, attention_gqa.render),
    ("MultiHeadAttention", attention_mha.refuse, attention_mha.render),
)
PLAIN_FORM = "MatMul-Softmax-MatMul"


@lowers("attention")
def lower(node: Node, b: Builder) -> None:
    """Render by the first form that does not refuse, plainly where onnxruntime has none."""
    request, refusals = read(node, b), []
    hopeless = unfusable(request)
    for form, refuse, render in () if hopeless else FUSED:
        why_not = refuse(b, request)
        if not why_not:
            b.fusions.append(Fusion(layer=request.layer, form=form, fused=True, reason=render(b, request)))
            return
        refusals.append(f"{form}: {why_not}")
    attention_plain.render(b, request)
    reason = hopeless or "; ".join(refusals)
    b.fusions.append(Fusion(layer=request.layer, form=PLAIN_FORM, fused=False, reason=reason, fusable=not hopeless))
