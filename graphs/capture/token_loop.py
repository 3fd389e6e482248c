"""A recurrence of one token, run over the tokens of a call: the stock code of a `delta_rule` while it is traced, and never in the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from kexport.graphs.capture.trace import Trace
from kexport.graphs.ops.delta_rule import LONGEST

Step = Callable[[list[tf.Tensor], tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def over_tokens(step: Step, tensors: Sequence[tf.Tensor], state: tf.Tensor, token_shape: Sequence[int | None]) -> tuple[tf.Tensor, tf.Tensor]:
    """Outputs [batch, sequence, heads, dim] and the last state.

    `step`: of each of `tensors` [batch, sequence, ...] one token [batch, 1, ...], and the state before it; gives the token's output
    [batch, 1, heads, dim] and the state after it. `token_shape`: what it gives for one token, [batch, heads, dim].
    """
    count = tf.shape(tensors[0])[1]
    outputs = tf.TensorArray(tensors[0].dtype, count, element_shape=token_shape)

    def one(place: Any, before: Any, outputs: Any) -> Any:
        output, after = step([tensor[:, place, None] for tensor in tensors], before)
        return place + 1, tf.ensure_shape(after, before.shape), outputs.write(place, output[:, 0])

    _, after, outputs = tf.while_loop(lambda place, *_: place < count, one, (0, state, outputs))
    return tf.transpose(outputs.stack(), (1, 0, 2, 3)), after


def mark_rows(
    trace: Trace, stock: Callable[..., Any], tensors: Sequence[Any], inputs: Sequence[Any], state_shape: Sequence[int], *, layer: str, chunk: int
) -> tf.Tensor:
    """Whole rows from a state of zeros, which nobody asks for after them, as one `delta_rule_rows` [batch, sequence, heads, dim].

    `stock(*tensors, state)` gives the outputs and the state after them; `inputs`: what the op takes in place of `tensors`. `state_shape`: without the batch.
    """

    def body(*inside: Any) -> tf.Tensor:
        return stock(*inside, tf.zeros((tf.shape(inside[0])[0], *state_shape), inside[0].dtype))[0]

    marked: tf.Tensor = trace.mark("delta_rule_rows", body, list(tensors), inputs=list(inputs), layer=layer, chunk=chunk, longest=LONGEST)
    return marked
