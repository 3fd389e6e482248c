"""The signatures' inputs and outputs, by the names of CONTRACTS.

prefill    tokens, input_pos [batch, sequence], lengths [batch]: several tokens a row, padded on the right, logits of each row's last one
decode     tokens, input_pos [batch, 1]: one token a row
encode     tokens, encoder_mask [batch, encoder_sequence] -> cross_k_<i>, cross_v_<i>
both of the first two also: kv_cache_k_<i>, kv_cache_v_<i> [batch, key-value heads, capacity, dim] in and out (any capacity; consumed),
                            cross_k_<i>, cross_v_<i> and encoder_mask in, with an encoder; logits float32 [batch, 1, vocabulary] out
                            conv_state_<i>, recurrent_state_<i> [batch, *shape] in and out, with recurrent layers: no padding may stand in a call

the signatures over whole rows (names.FORWARD) have their graph's own inputs and outputs

`input_pos` says where each token stands in its row: what its row holds already, counting on. Padding may stand at any position that the
row does not use yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, SEQUENCE, Shape
from kexport.graphs.ir import Graph, Slot, State
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import Experts, Fusion, TensorSpec
from kexport.targets.savedmodel.attention import HEADS_FIRST, LENGTHS
from kexport.targets.savedmodel.builder import Builder, Size, SlotTensors, Tensor
from kexport.targets.savedmodel.lowering import LOWERINGS
from kexport.targets.savedmodel.ops.last_token import last_of
from kexport.targets.savedmodel.weight_tensors import WeightTensors
from kexport.targets.slot_names import SameNames

STEMS = {"self": ("kv_cache_k", "kv_cache_v"), "cross": ("cross_k", "cross_v")}
CAPACITY = "capacity"
IDS = "int32"
INPUT_NAMES = {  # graph input -> tensor
    "token_ids": names.TOKENS,
    "encoder_token_ids": names.TOKENS,
    "positions": names.INPUT_POS,
    "lengths": names.LENGTHS,
    "encoder_padding_mask": names.ENCODER_MASK,
}


class SlotNames(SameNames):
    """The names of CONTRACTS; a cache goes in and comes out under the same one."""

    def __init__(self, slots: Mapping[str, Slot], states: Mapping[str, State] | None = None) -> None:
        super().__init__(slots, states)
        self.slots = slots

    def past(self, slot: str) -> tuple[str, str]:
        """Input names, key and value."""
        index, _ = self._places[slot]
        key, value = (f"{stem}_{index}" for stem in STEMS[self.slots[slot].kind])
        return key, value


@dataclass(slots=True)
class Rendered:
    """What one graph gave: tensors by name, the bytes of weights that a call reads whole, and the forms used."""

    outputs: dict[str, Tensor]
    weight_bytes: int
    fusions: list[Fusion] = field(default_factory=list)
    experts: list[Experts] = field(default_factory=list)


def tensor_name(graph: Graph, name: str, slot_names: SlotNames) -> str:
    """How the signature calls an input of its graph."""
    if name in graph.states:
        return slot_names.past_state(name)
    return name if graph.name in names.FORWARD else INPUT_NAMES.get(name, name)


def inputs_of(graph: Graph, slot_names: SlotNames, *, one_token: bool) -> tuple[TensorSpec, ...]:
    """The inputs of the signature made of `graph`, in order."""
    sequence = 1 if one_token else SEQUENCE
    specs = []
    if graph.name in names.FORWARD:
        return tuple(TensorSpec(name=name, dtype=type_.dtype, shape=type_.shape) for name, type_ in graph.inputs.items())
    for name, type_ in graph.inputs.items():
        if name == "lengths" and one_token:
            continue
        dtype = IDS if name in INPUT_NAMES else type_.dtype
        shape = tuple(sequence if dim == SEQUENCE else dim for dim in type_.shape)
        specs.append(TensorSpec(name=tensor_name(graph, name, slot_names), dtype=dtype, shape=shape))
    if names.LOGITS in graph.outputs and not one_token and "lengths" not in graph.inputs:
        specs.append(TensorSpec(name=names.LENGTHS, dtype=IDS, shape=(BATCH,)))
    for name, slot in graph.slots.items():
        specs += [
            TensorSpec(name=tensor, dtype=slot.dtype, shape=shape)
            for tensor, shape in zip(slot_names.past(name), shapes_of(slot), strict=True)
        ]
    return tuple(specs)


def shapes_of(slot: Slot) -> tuple[Shape, Shape]:
    """The shapes of a slot's keys and values as they are kept."""
    length = CAPACITY if slot.kind == "self" else ENCODER_SEQUENCE
    return (BATCH, slot.num_key_value_heads, length, slot.head_dim), (BATCH, slot.num_key_value_heads, length, slot.value_head_dim)


def tensorflow_specs(specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """The same for TensorFlow: named sizes stay open."""
    return {
        s.name: tf.TensorSpec([dim if isinstance(dim, int) else None for dim in s.shape], tf.as_dtype(s.dtype), name=s.name) for s in specs
    }


def render(
    graph: Graph, tensors: Mapping[str, Tensor], slot_names: SlotNames, weights: WeightTensors, *, one_token: bool = False
) -> Rendered:
    """Add `graph` to the function that is being traced; `tensors` are its inputs by their names in the signature."""
    b = Builder(graph, _sizes(graph, tensors, slot_names, one_token=one_token), weights)
    for name, type_ in graph.inputs.items():
        tensor = tensors.get(tensor_name(graph, name, slot_names))
        if tensor is not None:
            b.set(name, tf.cast(tensor, type_.dtype))
    for name, slot in graph.slots.items():
        b.slots[name] = SlotTensors(slot, [tensors[tensor] for tensor in slot_names.past(name)])
    for node in graph.nodes:
        LOWERINGS[node.op](node, b)
    return Rendered(_outputs(b, tensors, slot_names), sum(b.whole.values()), b.fusions, b.experts)


def _sizes(graph: Graph, tensors: Mapping[str, Tensor], slot_names: SlotNames, *, one_token: bool) -> dict[str, Size]:
    sizes: dict[str, Size] = {}
    for name, type_ in graph.inputs.items():
        tensor = tensors.get(tensor_name(graph, name, slot_names))
        for axis, dim in enumerate(type_.shape):
            if isinstance(dim, str) and dim not in sizes and tensor is not None:
                sizes[dim] = tf.shape(tensor)[axis]
    for name, slot in graph.slots.items():
        if LENGTHS[slot.kind] not in sizes:
            sizes[LENGTHS[slot.kind]] = tf.shape(tensors[slot_names.past(name)[0]])[2]
    if one_token:
        sizes[SEQUENCE] = 1
    return sizes


def _outputs(b: Builder, tensors: Mapping[str, Tensor], slot_names: SlotNames) -> dict[str, Tensor]:
    """Logits, or what else the graph gives; states; the encoder's caches; the written caches."""
    if b.graph.name in names.FORWARD:
        return {name: b.value(value) for name, value in b.graph.outputs.items()}
    outputs: dict[str, Tensor] = {}
    for name, value in b.graph.outputs.items():
        cross, shape = slot_names.encoder_output(name), b.type_of(value).shape
        if cross is not None:
            outputs[cross] = b.transpose(b.value(value), shape, HEADS_FIRST)
        elif name == names.LOGITS:
            logits = b.value(value)
            outputs[name] = last_of(logits, tensors[names.LENGTHS]) if b.size(shape[1]) is None else logits
        elif name in b.graph.states:
            outputs[slot_names.present_state(name)] = b.value(value)
        elif name == names.HIDDEN_STATES:
            outputs[name] = b.value(value)
    for slot, parts in b.slots.items():
        if parts.written:
            outputs |= dict(zip(slot_names.past(slot), parts.now, strict=True))
    return outputs


def outputs_of(graph: Graph, slot_names: SlotNames, rendered: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    """The records of what a signature of `graph` gives."""
    if graph.name in names.FORWARD:
        return tuple(TensorSpec(name=name, dtype=tensor.dtype.name, shape=graph.type_of(graph.outputs[name]).shape) for name, tensor in rendered.items())
    shapes: dict[str, Shape] = {}
    for name, slot in slot_names.slots.items():
        shapes |= dict(zip(slot_names.past(name), shapes_of(slot), strict=True))
    shapes |= {slot_names.present_state(name): graph.type_of(name).shape for name in graph.states}
    if names.LOGITS in graph.outputs:
        shapes[names.LOGITS] = (BATCH, 1, graph.type_of(graph.outputs[names.LOGITS]).shape[-1])
    if names.HIDDEN_STATES in graph.outputs:
        shapes[names.HIDDEN_STATES] = graph.type_of(graph.outputs[names.HIDDEN_STATES]).shape
    return tuple(TensorSpec(name=name, dtype=tensor.dtype.name, shape=shapes[name]) for name, tensor in rendered.items())
