"""The signatures' inputs and outputs, by the names that LiteRT-LM looks for.

token_ids, encoder_token_ids   tokens         int32 [1, n]
positions                      input_pos      int32 [n], counting on by one
lengths                        lengths        int32 [1], only where something reads it
encoder_padding_mask           encoder_mask   int32 [1, n], 1 on real tokens
self slot, i-th of its kind    kv_cache_k_<i>, kv_cache_v_<i>    float32 [1, heads, cache length, dim], in and out
cross slot                     cross_k_<i>, cross_v_<i>          float32 [1, heads, encoder capacity, dim], out of `encode_<n>`
state, i-th of its kind        conv_state_<i>, recurrent_state_<i>    float32 [1, *shape], in and out; its output is not written over its input
logits                         logits         float32 [1, 1, vocabulary]

Signatures over whole rows keep the graph's own names and dtypes, all their inputs and all their outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from kexport.graphs.dims import ENCODER_SEQUENCE
from kexport.graphs.ir import Graph, Slot, State
from kexport.runtime.contract import names
from kexport.targets.slot_names import SameNames
from kexport.targets.tflite.attention import HEADS_FIRST
from kexport.targets.tflite.builder import Builder, SlotTensors, Tensor

STEMS = {"self": ("kv_cache_k", "kv_cache_v"), "cross": ("cross_k", "cross_v")}
ALWAYS_THERE = frozenset({names.TOKENS, names.INPUT_POS, names.ENCODER_MASK})
IDS = "int32"


class SlotNames(SameNames):
    """LiteRT-LM's names; a cache goes in and comes out under the same one."""

    def __init__(self, slots: Mapping[str, Slot], states: Mapping[str, State] | None = None) -> None:
        super().__init__(slots, states)
        self._kinds = {name: slot.kind for name, slot in slots.items()}

    def past(self, slot: str) -> tuple[str, str]:
        """Input names, key and value."""
        index, _ = self._places[slot]
        key, value = (f"{stem}_{index}" for stem in STEMS[self._kinds[slot]])
        return key, value


def declare_inputs(b: Builder, slot_names: SlotNames, encoder_capacity: int) -> None:
    """Declare the signature's inputs and set the graph's inputs from them."""
    renamed = {} if b.graph.name in names.FORWARD else INPUTS
    for name in b.graph.inputs:
        if name in b.graph.states:
            b.set(name, b.add_input(slot_names.past_state(name), b.type_of(name).dtype, b.shape_of(name)))
        else:
            renamed.get(name, _as_it_is)(b, name)
    for name, slot in b.graph.slots.items():
        length = b.cache_length if slot.kind == "self" else encoder_capacity
        key, value = (
            b.add_input(tensor, slot.dtype, (1, slot.num_key_value_heads, length, dim))
            for tensor, dim in zip(slot_names.past(name), (slot.head_dim, slot.value_head_dim), strict=True)
        )
        b.slots[name] = SlotTensors(slot, (key, value), slot_names.past(name))


def _tokens(b: Builder, name: str) -> None:
    b.set(name, b.add_input(names.TOKENS, IDS, b.shape_of(name)))


def _positions(b: Builder, name: str) -> None:
    shape = b.shape_of(name)
    b.set(name, b.reshape(b.add_input(names.INPUT_POS, IDS, shape[1:]), shape))


def _mask(b: Builder, name: str) -> None:
    numeric = b.add_input(names.ENCODER_MASK, IDS, b.shape_of(name))
    b.set_numeric(name, numeric)
    b.set(name, b.cast(numeric, b.type_of(name).dtype))


def _as_it_is(b: Builder, name: str) -> None:
    b.set(name, b.add_input(name, b.type_of(name).dtype, b.shape_of(name)))


INPUTS: dict[str, Callable[[Builder, str], None]] = {
    "token_ids": _tokens,
    "encoder_token_ids": _tokens,
    "positions": _positions,
    "encoder_padding_mask": _mask,
}


def final_outputs(b: Builder, graph: Graph, slot_names: SlotNames, *, with_logits: bool, encoder_capacity: int) -> dict[str, Tensor]:
    """The signature's outputs by name: logits where wanted, states, the encoder's caches padded to their capacity, the written caches."""
    if graph.name in names.FORWARD:
        return {name: b.value(value) for name, value in graph.outputs.items()}
    outputs: dict[str, Tensor] = {}
    for name, value in graph.outputs.items():
        cross = slot_names.encoder_output(name)
        if name in graph.states:
            outputs[slot_names.present_state(name)] = b.value(value)
        elif cross is not None:
            outputs[cross] = _padded(b, b.transpose(b.value(value), HEADS_FIRST), encoder_capacity)
        elif (with_logits or name == names.HIDDEN_STATES) and ENCODER_SEQUENCE not in graph.type_of(value).shape:
            outputs[name] = b.value(value)
    for tensors in b.slots.values():
        outputs |= {name: tensor for name, tensor in zip(tensors.output_names, tensors.present, strict=True) if tensor is not None}
    return outputs


def _padded(b: Builder, tensor: Tensor, length: int) -> Tensor:
    """Zeros behind the positions of [1, heads, n, dim], up to `length`."""
    missing = length - tensor.shape[2]
    if not missing:
        return tensor
    paddings = b.constant(np.array([[0, 0], [0, 0], [0, missing], [0, 0]], np.int32))
    return b.op("PAD", [tensor, paddings], tensor.dtype, (*tensor.shape[:2], length, tensor.shape[3]))
