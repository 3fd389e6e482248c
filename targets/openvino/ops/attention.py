"""attention: over the state by row index where nothing but causality, windows, slopes and real tokens hide keys; else by positions.

The form, and why not a better one, goes into the manifest.
"""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import Fusion
from kexport.targets.openvino.attention import (
    BIAS,
    KEY_MASK,
    MASK,
    POSITIONS,
    QUERY,
    SINKS,
    SLOPES,
    Request,
    append,
    given_keys_and_values,
    in_text_order,
    index_mask,
    position_mask,
    read,
    slot_part,
)  # fmt: skip
from kexport.targets.openvino.attention_forms import operator, plain
from kexport.targets.openvino.builder import Builder, Output
from kexport.targets.openvino.lowering import lowers
from kexport.targets.openvino.unfusable import refuse_operator, unfusable

OPERATOR_FORM = "ScaledDotProductAttention"
PLAIN_FORM = "MatMul-Softmax-MatMul"
NOT_PAGED = "paged attention does not read a window together with slopes"


@lowers("attention")
def lower(node: Node, b: Builder) -> None:
    """Keys and values, then the mask, then the form."""
    r = read(node, b)
    own = r.slot is not None and r.slot.kind == "self"
    by_index = _why_not_by_index(b, r) if own else "it has no state"
    keys, values = _keys_and_values(b, r)
    if own and by_index:
        keys, values = in_text_order(b, keys), in_text_order(b, values)
    mask = position_mask(b, r) if by_index else index_mask(b, r)
    made = (plain if refuse_operator(r) else operator)(b, r, b.heads_first(r.input(QUERY)), keys, values, mask)
    b.set_heads_first(node.output, made)
    b.fusions.append(_record(r, by_index))


def _why_not_by_index(b: Builder, r: Request) -> str:
    """Why masks cannot go by row index; empty if they can."""
    hidden = [name for name, index in (("mask", MASK), ("key mask", KEY_MASK)) if r.input(index)]
    if hidden:
        return f"the graph computes its own {hidden[0]}"
    if not r.causal:
        return "without causality"
    if r.input(SLOPES) and r.input(SINKS):
        return "a sink weighs against slopes by position, not by column"
    if not b.is_position_input(r.input(POSITIONS)):
        return "its positions are computed in the graph"
    return ""


def _keys_and_values(b: Builder, r: Request) -> tuple[Output, Output]:
    if r.slot is None:
        return given_keys_and_values(b, r)
    if not r.write:
        return slot_part(b, r.slot_name, 0), slot_part(b, r.slot_name, 1)
    if r.slot.kind != "self":
        raise UnsupportedError("KX217", f"layer {r.layer} writes a cross-attention cache in a decoding step; the OpenVINO target cannot")
    if not b.is_position_input(r.input(POSITIONS)):
        raise UnsupportedError(
            "KX217", f"layer {r.layer} writes its cache at positions of its own; the OpenVINO target appends to the end only"
        )
    new_keys, new_values = given_keys_and_values(b, r)
    return append(b, r.slot_name, 0, new_keys), append(b, r.slot_name, 1, new_values)


def _record(r: Request, by_index: str) -> Fusion:
    hopeless = unfusable(r)
    form = PLAIN_FORM if refuse_operator(r) else OPERATOR_FORM
    if hopeless:
        return Fusion(layer=r.layer, form=form, fused=False, reason=hopeless, fusable=False)
    if r.slot is None:
        return Fusion(layer=r.layer, form=form, fused=True, reason="without a cache")
    if by_index:
        return Fusion(layer=r.layer, form=form, fused=False, reason=f"not fused with the cache: {by_index}")
    remarks = ["fused with the cache"]
    remarks += [f"window of {r.window}"] if r.window else []
    remarks += ["slopes"] if r.input(SLOPES) else []
    remarks += ["bias"] if r.input(BIAS) else []
    remarks += [NOT_PAGED] if r.input(SLOPES) and r.window else []
    return Fusion(layer=r.layer, form=form, fused=True, reason=", ".join(remarks))
