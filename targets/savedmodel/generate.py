"""The whole loop inside the graph: `generate`, for hosts that bring no loop of their own (TensorFlow Serving, the C API).

tokens            int32 [batch, sequence]   prompts, padded on the right        lengths  int32 [batch]   their lengths, at least 1
max_new_tokens    int32                     held to what the model's capacity leaves
temperature       float32                   0: greedy; else logits are divided by it and one token is drawn
top_k             int32                     draw from the k likeliest only; 0: from all
top_p             float32                   draw from the fewest whose shares sum up to p; 1: from all
seed              int32                     the same seed gives the same tokens
stop_token_ids    int32 [n]                 a row ends with the first of them; may be empty
encoder_tokens, encoder_mask                int32 [batch, encoder_sequence], with an encoder
-> token_ids      int32 [batch, sequence + new]   prompt and new tokens of each row, then zeros;    lengths   int32 [batch]
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, SEQUENCE
from kexport.graphs.ir import Graph
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import TensorSpec
from kexport.targets.savedmodel.builder import Tensor
from kexport.targets.savedmodel.interface import IDS, SlotNames, render
from kexport.targets.savedmodel.weight_tensors import WeightTensors

ENCODER_TOKENS = "encoder_tokens"
TOKEN_IDS = "token_ids"
NEVER = -1e30  # the logit of a token that may not be drawn
PLAIN = (
    TensorSpec(name=names.TOKENS, dtype=IDS, shape=(BATCH, SEQUENCE)),
    TensorSpec(name=names.LENGTHS, dtype=IDS, shape=(BATCH,)),
    TensorSpec(name="max_new_tokens", dtype=IDS, shape=()),
    TensorSpec(name="temperature", dtype="float32", shape=()),
    TensorSpec(name="top_k", dtype=IDS, shape=()),
    TensorSpec(name="top_p", dtype="float32", shape=()),
    TensorSpec(name="seed", dtype=IDS, shape=()),
    TensorSpec(name="stop_token_ids", dtype=IDS, shape=("stop_tokens",)),
)
WITH_ENCODER = (
    TensorSpec(name=ENCODER_TOKENS, dtype=IDS, shape=(BATCH, ENCODER_SEQUENCE)),
    TensorSpec(name=names.ENCODER_MASK, dtype=IDS, shape=(BATCH, ENCODER_SEQUENCE)),
)
OUTPUTS = (
    TensorSpec(name=TOKEN_IDS, dtype=IDS, shape=(BATCH, "generated")),
    TensorSpec(name=names.LENGTHS, dtype=IDS, shape=(BATCH,)),
)


def inputs(graphs: Mapping[str, Graph]) -> tuple[TensorSpec, ...]:
    """The inputs of `generate` for these graphs."""
    return PLAIN + (WITH_ENCODER if names.ENCODE in graphs else ())


class Loop:
    """Traces the loop: the prompt, then one token a turn until every row has stopped."""

    def __init__(self, graphs: Mapping[str, Graph], slot_names: SlotNames, weights: WeightTensors, capacity: int) -> None:
        self.graphs, self.slot_names, self.weights, self.capacity = graphs, slot_names, weights, capacity
        self.main = graphs[names.EXTEND]
        self.cache_names = [name for slot, kept in self.main.slots.items() if kept.kind == "self" for name in slot_names.past(slot)]

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The function's body."""
        tokens, counts = given[names.TOKENS], given[names.LENGTHS]
        batch, width = tf.shape(tokens)[0], tf.shape(tokens)[1]
        new = tf.maximum(tf.minimum(given["max_new_tokens"], self.capacity - width), 0)
        fixed = self._cross(given)
        columns = tf.range(width)
        positions = tf.broadcast_to(columns, [batch, width])
        step = {names.TOKENS: tokens, names.INPUT_POS: positions, names.LENGTHS: counts}
        logits, caches = self._step(step | fixed | self._empty(batch, width + new), one_token=False)
        kept = tf.where(columns < counts[:, tf.newaxis], tokens, 0)
        row = tf.concat([kept, tf.zeros([batch, new], tf.int32)], 1)
        state = self._take(given, logits, tf.constant(0), tf.fill([batch], new < 1), counts, row)

        def unfinished(turn: Tensor, token: Tensor, stopped: Tensor, *others: Tensor) -> Tensor:
            return tf.logical_and(turn < new, tf.logical_not(tf.reduce_all(stopped)))

        def body(turn: Tensor, token: Tensor, stopped: Tensor, counts: Tensor, row: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
            step = {names.TOKENS: token[:, tf.newaxis], names.INPUT_POS: (counts - 1)[:, tf.newaxis]}
            logits, written = self._step(step | fixed | dict(zip(self.cache_names, caches, strict=True)), one_token=True)
            return (turn + 1, *self._take(given, logits, turn, stopped, counts, row), *written)

        loop = tf.while_loop(unfinished, body, (tf.constant(1), *state, *caches), parallel_iterations=1)
        return {TOKEN_IDS: loop[4], names.LENGTHS: loop[3]}

    def _step(self, tensors: Mapping[str, Tensor], *, one_token: bool) -> tuple[Tensor, list[Tensor]]:
        """Logits [batch, vocabulary] and the caches after these tokens."""
        outputs = render(self.main, tensors, self.slot_names, self.weights, one_token=one_token).outputs
        logits = tf.squeeze(outputs[names.LOGITS], 1)
        return logits, [tf.ensure_shape(outputs.get(name, tensors[name]), tensors[name].shape) for name in self.cache_names]

    def _empty(self, batch: Tensor, length: Tensor) -> dict[str, Tensor]:
        """Caches of zeros, each a tensor of its own: equal constants would be merged into one, and all layers would write into it."""
        caches = {}
        for slot, kept in self.main.slots.items():
            if kept.kind == "self":
                for name, dim in zip(self.slot_names.past(slot), (kept.head_dim, kept.value_head_dim), strict=True):
                    shape = tf.stack([batch, kept.num_key_value_heads, length, dim])
                    made = tf.raw_ops.Empty(shape=shape, dtype=tf.as_dtype(kept.dtype), init=True)
                    caches[name] = tf.ensure_shape(made, [None, kept.num_key_value_heads, None, dim])
        return caches

    def _cross(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the encoder gives, and its mask."""
        if names.ENCODE not in self.graphs:
            return {}
        mask = given[names.ENCODER_MASK]
        tensors = {names.TOKENS: given[ENCODER_TOKENS], names.ENCODER_MASK: mask}
        return render(self.graphs[names.ENCODE], tensors, self.slot_names, self.weights).outputs | {names.ENCODER_MASK: mask}

    def _take(
        self, given: Mapping[str, Tensor], logits: Tensor, turn: Tensor, stopped: Tensor, counts: Tensor, row: Tensor
    ) -> tuple[Tensor, ...]:
        """The next token of every row that goes on, written behind what the row holds."""
        token = next_tokens(logits, given, turn)
        here = tf.range(tf.shape(row)[1]) == counts[:, tf.newaxis]
        going = tf.logical_not(stopped)
        row = tf.where(tf.logical_and(here, going[:, tf.newaxis]), token[:, tf.newaxis], row)
        ends = tf.reduce_any(token[:, tf.newaxis] == given["stop_token_ids"], axis=1)
        return token, tf.logical_or(stopped, ends), counts + tf.cast(going, tf.int32), row


def next_tokens(logits: Tensor, given: Mapping[str, Tensor], turn: Tensor) -> Tensor:
    """int32 [batch]: the likeliest tokens, or drawn ones where the temperature is above 0."""
    return tf.cond(
        given["temperature"] > 0,
        lambda: _drawn(logits / given["temperature"], given, turn),
        lambda: tf.argmax(logits, -1, output_type=tf.int32),
    )


def _drawn(logits: Tensor, given: Mapping[str, Tensor], turn: Tensor) -> Tensor:
    size = tf.shape(logits)[-1]
    values, ids = tf.math.top_k(logits, size)
    place, top_k = tf.range(size), given["top_k"]
    values = tf.where(tf.logical_or(top_k < 1, place < top_k), values, NEVER)
    before = tf.cumsum(tf.nn.softmax(values), axis=-1, exclusive=True)
    values = tf.where(tf.logical_or(place < 1, before < given["top_p"]), values, NEVER)
    chosen = tf.random.stateless_categorical(values, 1, seed=tf.stack([given["seed"], turn]), dtype=tf.int32)
    return tf.squeeze(tf.gather(ids, chosen, axis=1, batch_dims=1), 1)
