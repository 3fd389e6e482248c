"""The file's inputs and outputs under the names that ONNX users expect (optimum's), and how the graph's own values follow from them.

token_ids, encoder_token_ids   input_ids               int64 [batch, sequence]
positions                      position_ids            int64 [batch, sequence], only if something reads it
lengths                        from attention_mask     tokens.py; with states and no slot every token is real, and there is no mask
encoder_padding_mask           attention_mask (encoder), encoder_attention_mask (decoder)
slot, i-th of its kind         past_key_values.<i>.key|value -> present.<i>.key|value
                               with an encoder: past_key_values.<i>.decoder|encoder.key|value -> present.<i>.decoder|encoder.key|value
state, i-th of its kind        past_conv.<i> -> present_conv.<i>, past_recurrent.<i> -> present_recurrent.<i>    [batch, *shape]
score, backbone, ... (names.FORWARD) every input under its own name and dtype
hidden, cross.<i>.key|value    last_hidden_state, present.<i>.encoder.key|value [batch, heads, encoder sequence, dim]
"""

from __future__ import annotations

from collections.abc import Callable

from kexport.graphs.dims import BATCH, SEQUENCE, TOTAL
from kexport.graphs.ir import Graph, Slot, TensorType
from kexport.runtime.contract import names
from kexport.targets.onnx.attention import HEADS_FIRST
from kexport.targets.onnx.builder import Builder, SlotTensors, Tensor
from kexport.targets.onnx.tokens import lengths
from kexport.targets.slot_names import SlotNames

HIDDEN = "hidden"
LAST_HIDDEN_STATE = "last_hidden_state"
IDS_DTYPE = "int64"
ALWAYS_THERE = frozenset({names.INPUT_IDS, names.ATTENTION_MASK, names.ENCODER_ATTENTION_MASK})
Declare = Callable[[Builder, str, TensorType], None]


def declare_inputs(b: Builder, slot_names: SlotNames) -> None:
    """Declare the file's inputs and set the graph's inputs from them."""
    graph = b.graph
    if graph.name in names.FORWARD:
        for name, type_ in graph.inputs.items():
            _as_it_is(b, name, type_)
        return
    ordered = sorted(graph.inputs.items(), key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER))
    for name, type_ in ordered[:1]:
        INPUTS.get(name, _as_it_is)(b, name, type_)
    if any(slot.kind == "self" for slot in graph.slots.values()):
        b.add_input(names.ATTENTION_MASK, IDS_DTYPE, (BATCH, TOTAL))
    elif "lengths" in graph.inputs and not graph.states:
        b.add_input(names.ATTENTION_MASK, IDS_DTYPE, (BATCH, SEQUENCE))
    for name, type_ in ordered[1:]:
        if name not in graph.states:
            INPUTS.get(name, _as_it_is)(b, name, type_)
    for name, slot in graph.slots.items():
        _declare_slot(b, name, slot, slot_names)
    for name in graph.states:
        type_ = graph.inputs[name]
        b.set(name, b.add_input(slot_names.past_state(name), type_.dtype, type_.shape))


def _declare_slot(b: Builder, name: str, slot: Slot, slot_names: SlotNames) -> None:
    length = "past" if slot.kind == "self" else "encoder_sequence"
    key, value = (
        b.add_input(tensor, slot.dtype, (BATCH, slot.num_key_value_heads, length, dim))
        for tensor, dim in zip(slot_names.past(name), (slot.head_dim, slot.value_head_dim), strict=True)
    )
    b.slots[name] = SlotTensors(slot, (key, value), slot_names.present(name))


def _wide_ids(tensor_name: str) -> Declare:
    def declare(b: Builder, name: str, type_: TensorType) -> None:
        wide = b.add_input(tensor_name, IDS_DTYPE, type_.shape)
        b.set_wide_ids(name, wide)
        b.set(name, b.cast(wide, type_.dtype))

    return declare


def _mask(b: Builder, name: str, type_: TensorType) -> None:
    tensor_name = names.ENCODER_ATTENTION_MASK if names.ATTENTION_MASK in b.inputs or b.graph.slots else names.ATTENTION_MASK
    b.set(name, b.cast(b.add_input(tensor_name, IDS_DTYPE, type_.shape), type_.dtype))


def _lengths(b: Builder, name: str, type_: TensorType) -> None:
    wide = lengths(b)
    b.set_wide_ids(name, wide)
    b.set(name, b.cast(wide, type_.dtype))


def _as_it_is(b: Builder, name: str, type_: TensorType) -> None:
    b.set(name, b.add_input(name, type_.dtype, type_.shape))


INPUTS: dict[str, Declare] = {
    "token_ids": _wide_ids(names.INPUT_IDS),
    "encoder_token_ids": _wide_ids(names.INPUT_IDS),
    "encoder_padding_mask": _mask,
    "positions": _wide_ids(names.POSITION_IDS),
    "lengths": _lengths,
}
_ORDER = list(INPUTS)


def final_outputs(b: Builder, graph: Graph, slot_names: SlotNames) -> dict[str, Tensor]:
    """The file's outputs by name: the graph's, then the newest state of every slot that was written."""
    outputs: dict[str, Tensor] = {}
    for name, value in graph.outputs.items():
        tensor = b.value(value)
        cross = slot_names.encoder_output(name)
        if cross is not None:
            outputs[cross] = b.transpose(tensor, HEADS_FIRST)
        else:
            final = slot_names.present_state(name) if name in graph.states else LAST_HIDDEN_STATE if name == HIDDEN else name
            outputs[final] = _own(b, tensor, outputs)
    for tensors in b.slots.values():
        outputs |= {name: tensor for name, tensor in zip(tensors.present_names, tensors.present, strict=True) if tensor is not None}
    return outputs


def _own(b: Builder, tensor: Tensor, taken: dict[str, Tensor]) -> Tensor:
    """`tensor` as an operator's result that is no other output."""
    made = any(tensor in operator.outputs for operator in b.operators)
    return tensor if made and tensor not in taken.values() else b.op("Identity", [tensor], tensor.dtype, tensor.shape)
