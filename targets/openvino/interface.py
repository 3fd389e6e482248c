"""The file's inputs and outputs under the names that OpenVINO GenAI and optimum expect, and how the graph's own values follow from them.

token_ids, encoder_token_ids   input_ids               int64 [batch, sequence]
positions                      position_ids            int64 [batch, sequence], only if something reads it
lengths                        the size of `sequence`: rows are padded on the left and end at the last column
                               attention_mask          int64 [batch, total], with the tokens that the state holds; 0 on the padding in front
                               beam_idx                int32 [batch], the row of the state that each row continues
encoder_padding_mask           attention_mask (encoder), encoder_attention_mask (decoder)
self slot, i-th of its kind    state past_key_values.<i>.key + present.<i>.key, the name that optimum gives it
state, i-th of its kind        state past_conv.<i> + present_conv.<i>, past_recurrent.<i> + present_recurrent.<i>    [batch, *shape]
cross slot                     past_key_values.<i>.encoder.key|value [batch, heads, encoder sequence, dim]
score, backbone, ... (names.FORWARD) every input under its own name and dtype
hidden, cross.<i>.key|value    last_hidden_state, present.<i>.encoder.key|value
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import openvino as ov
from kexport.graphs.dims import BATCH, SEQUENCE, TOTAL
from kexport.graphs.ir import Slot, State, TensorType
from kexport.runtime.contract import names
from kexport.targets.openvino.builder import HEADS_FIRST, Builder, Output
from kexport.targets.openvino.dtypes import element_type
from kexport.targets.slot_names import SlotNames
from openvino import opset6
from openvino import opset13 as op

HIDDEN = "hidden"
LAST_HIDDEN_STATE = "last_hidden_state"
IDS_DTYPE = "int64"
ALWAYS_THERE = frozenset({names.INPUT_IDS, names.ATTENTION_MASK, names.BEAM_INDEX, names.ENCODER_ATTENTION_MASK})
Declare = Callable[[Builder, str, TensorType], None]


def declare_inputs(b: Builder, slot_names: SlotNames) -> None:
    """Declare the file's inputs and set the graph's inputs from them."""
    graph = b.graph
    if graph.name in names.FORWARD:
        for name, type_ in graph.inputs.items():
            b.set(name, b.add_input(name, type_.dtype, type_.shape))
        return
    own = [name for name, slot in graph.slots.items() if slot.kind == "self"]
    for name in (known for known in INPUTS if known in graph.inputs):
        if own and names.INPUT_IDS in b.parameters and names.ATTENTION_MASK not in b.parameters:
            b.add_input(names.ATTENTION_MASK, IDS_DTYPE, (BATCH, TOTAL))
        INPUTS[name](b, name, graph.inputs[name])
    for name, type_ in graph.inputs.items():
        if name not in INPUTS and name not in graph.states:
            b.set(name, b.add_input(name, type_.dtype, type_.shape))
    if own or graph.states:
        b.add_input(names.BEAM_INDEX, "int32", (BATCH,))
    for name, slot in graph.slots.items():
        _declare_slot(b, name, slot, slot_names)
    for name, state in graph.states.items():
        _read_state(b, name, state, slot_names)


def _declare_slot(b: Builder, name: str, slot: Slot, slot_names: SlotNames) -> None:
    past, present = slot_names.past(name), slot_names.present(name)
    if slot.kind == "self":
        b.states[name] = (past[0] + present[0], past[1] + present[1])
        return
    for part, (tensor, dim) in enumerate(zip(past, (slot.head_dim, slot.value_head_dim), strict=True)):
        b.past[name, part] = b.add_input(tensor, slot.dtype, (BATCH, slot.num_key_value_heads, "encoder_sequence", dim))


def _read_state(b: Builder, name: str, state: State, slot_names: SlotNames) -> None:
    """What each row's state holds, of the row that it continues; zeros before the first call."""
    start = op.broadcast(b.number(0), b.shape((BATCH, *state.shape)))
    held = opset6.read_value(start, _variable(name, slot_names), element_type(state.dtype), ov.PartialShape([-1, *state.shape]))
    b.set(name, op.gather(held, b.input(names.BEAM_INDEX), b.integer(0)))


def _alone(made: Output) -> Any:
    """An operator whose only output is `made`: `assign` takes no other. A Convert that changes nothing is dropped when the model is compiled."""
    node = made.get_node()
    return node if node.get_output_size() == 1 else op.convert(made, made.get_element_type().to_string())


def _variable(state: str, slot_names: SlotNames) -> str:
    return slot_names.past_state(state) + slot_names.present_state(state)


def _wide_ids(tensor_name: str) -> Declare:
    def declare(b: Builder, name: str, type_: TensorType) -> None:
        wide = b.add_input(tensor_name, IDS_DTYPE, type_.shape)
        b.set_wide_ids(name, wide)
        b.set(name, b.convert(wide, type_.dtype))

    return declare


def _mask(b: Builder, name: str, type_: TensorType) -> None:
    tensor_name = names.ENCODER_ATTENTION_MASK if b.graph.slots else names.ATTENTION_MASK
    b.set(name, op.not_equal(b.add_input(tensor_name, IDS_DTYPE, type_.shape), b.integer(0)))


def _lengths(b: Builder, name: str, type_: TensorType) -> None:
    """Every row ends at the last column."""
    wide = op.broadcast(b.scalar_dim(SEQUENCE), b.dim(BATCH))
    b.set_wide_ids(name, wide)
    b.set(name, b.convert(wide, type_.dtype))


INPUTS: dict[str, Declare] = {
    "token_ids": _wide_ids(names.INPUT_IDS),
    "encoder_token_ids": _wide_ids(names.INPUT_IDS),
    "encoder_padding_mask": _mask,
    "positions": _wide_ids(names.POSITION_IDS),
    "lengths": _lengths,
}


def final_outputs(b: Builder, slot_names: SlotNames) -> dict[str, Output]:
    """The file's outputs by name; what states hold after the call is assigned to them."""
    outputs: dict[str, Output] = {}
    for name, value in b.graph.outputs.items():
        if name in b.graph.states:
            b.sinks.append(opset6.assign(_alone(b.value(value)), _variable(name, slot_names)))
            continue
        cross, shape = slot_names.encoder_output(name), b.type_of(value).shape
        if cross is not None:
            outputs[cross], b.shapes[cross] = b.heads_first(value), tuple(shape[axis] for axis in HEADS_FIRST)
        else:
            final = LAST_HIDDEN_STATE if name == HIDDEN else name
            outputs[final], b.shapes[final] = b.value(value), shape
    return outputs


def model_of(b: Builder, outputs: Mapping[str, Output]) -> ov.Model:
    """The model with these outputs; inputs that nothing reads are dropped unless they are always there."""
    results = []
    for name, output in outputs.items():
        result = op.result(output)
        output.get_tensor().add_names({name})
        result.set_friendly_name(name)
        results.append(result)
    read = _reachable([*results, *b.sinks])
    always = frozenset(b.parameters) if b.graph.name in names.FORWARD else ALWAYS_THERE
    parameters = [parameter for name, parameter in b.parameters.items() if name in read or name in always]
    return ov.Model(results, b.sinks, parameters, b.graph.name)


def _reachable(ends: list[Any]) -> set[str]:
    """The names of all operators that the ends depend on."""
    seen: set[str] = set()
    pending = list(ends)
    while pending:
        node = pending.pop()
        if node.get_friendly_name() not in seen:
            seen.add(node.get_friendly_name())
            pending += [value.get_node() for value in node.input_values()]
    return seen

