"""Families with recurrent layers: one graph for any number of tokens gives stock's states and logits, padding and its pieces included."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import new_caches, run

from tests.zoo import ZOO
from tests.zoo.variant import VOCABULARY

pytestmark = pytest.mark.slow
HYBRIDS = ["qwen3.5", "qwen3.5 moe"]
CLOSE = 3e-5  # of the spread of a state or of logits; against exact arithmetic stock itself is up to 2e-5 off here
STEPS = 3


@pytest.fixture(scope="module")
def model_of() -> Callable[[str], Any]:
    """Name -> its stock task, what `capture` gives for it, and its numbers."""
    from kexport.graphs.capture import capture
    from kexport.graphs.capture.live import LiveWeights

    def make(name: str) -> Any:
        task = ZOO[name].build()
        return task, capture(task), LiveWeights(task.variables)

    return functools.cache(make)


def rows_of(lengths: Sequence[int], length: int) -> tuple[Any, Any]:
    """Random ids right padded to `length`, and their mask."""
    mask = np.arange(length) < np.array(lengths)[:, None]
    ids = np.random.default_rng(length).integers(1, VOCABULARY, mask.shape)
    return np.where(mask, ids, 0).astype(np.int32), mask


class Session:
    """The captured graph over caches that go on."""

    def __init__(self, model: Any, rows: int, capacity: int) -> None:
        _, captured, self._weights = model
        self.graph, self._rows, self._capacity = captured.graphs["extend"], rows, capacity
        self.caches = new_caches(self.graph, rows, capacity)

    def feed(self, ids: Any, start: int, valid: Sequence[int] | None = None) -> Any:
        """The logits of tokens from position `start` on; `valid`: where padding starts in each row."""
        positions = np.arange(start, start + ids.shape[1], dtype=np.int32)[None].repeat(self._rows, axis=0)
        lengths = np.array([self._capacity] * self._rows if valid is None else valid, np.int32)
        return run(self.graph, {"token_ids": ids, "positions": positions, "valid_lengths": lengths}, self._weights, self.caches)["logits"]


def assert_close(got: Any, expected: Any) -> None:
    """Within rounding."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(got, expected, atol=CLOSE * max(1.0, float(np.ptp(expected))), rtol=0)


def assert_same_states(session: Session, cache: Any) -> None:
    """The graph's states are those that stock passes along, its convolution states with tokens first."""
    for name, state in session.graph.states.items():
        part, layer = {"convolution": 1, "recurrent": 2}[state.kind], int(name.rpartition(".")[2])
        stock = np.asarray(cache[part])[:, layer]
        assert_close(session.caches[name][0], stock.transpose(0, 2, 1) if part == 1 else stock)


@pytest.mark.parametrize("name", HYBRIDS)
def test_layers_become_slots_and_states(name: str, model_of: Callable[[str], Any]) -> None:
    """A slot for each attention layer, two states for each recurrent one, and nothing left as plain ops that has an op of its own."""
    _, captured, _ = model_of(name)
    graph = captured.graphs["extend"]
    assert captured.notes == []
    assert list(graph.slots) == ["self.3"] and len(list(graph.of_op("attention"))) == 1
    assert set(graph.states) == {f"{kind}.{layer}" for kind in ("convolution", "recurrent") for layer in range(3)} < set(graph.outputs)
    assert graph.states["convolution.0"].shape == (3, 80) and graph.states["recurrent.0"].shape == (4, 8, 12)
    assert len(list(graph.of_op("delta_rule"))) == 3


# Of the model with experts short rows only: which experts a token takes amplifies the rounding of a long sum; whole rows are compared by the parity gate.
ROWS = [(name, lengths) for name in HYBRIDS for lengths in ((1, 1), (2, 1), (63, 40), (64, 1), (65, 63), (130, 70)) if "moe" not in name or max(lengths) < 60]


@pytest.mark.parametrize(("name", "lengths"), ROWS)
def test_prefill_and_steps_are_stocks(name: str, lengths: tuple[int, int], model_of: Callable[[str], Any]) -> None:
    """Stock's prefill of a padded buffer, then its steps from the last token of the shortest prompt on; the buffer in one call and in pieces."""
    import tensorflow as tf

    task, *_ = model_of(name)
    length = max(lengths)
    ids, mask = rows_of(lengths, length)
    for pieces in ([length], [length // 3, 1, length]):
        _, cache = task._build_cache(tf.constant(ids), tf.constant(mask))
        session, done = Session(model_of(name), len(ids), length), 0
        for piece in pieces:
            part = ids[:, done : done + piece]
            if part.shape[1]:
                session.feed(part, done, lengths)
            done += part.shape[1]
        assert_same_states(session, cache)
        for column in range(min(lengths) - 1, min(min(lengths) - 1 + STEPS, length)):
            logits, _, cache = task.call_with_cache(tf.constant(ids[:, column, None]), cache, column)
            assert_close(session.feed(ids[:, column, None], column), logits)
        assert_same_states(session, cache)


@pytest.mark.parametrize("valid", range(1, 9))
def test_pieces_may_end_anywhere(valid: int, model_of: Callable[[str], Any]) -> None:
    """Wherever a row's padding starts and a call ends, the states are those of the buffer fed at once: a convolution looks over both."""
    lengths = (valid, 9)
    ids, _ = rows_of(lengths, 12)
    whole = Session(model_of("qwen3.5"), 2, 12)
    whole.feed(ids, 0, lengths)
    for cut in range(1, 12):
        session = Session(model_of("qwen3.5"), 2, 12)
        session.feed(ids[:, :cut], 0, lengths)
        session.feed(ids[:, cut:], cut, lengths)
        for name in whole.graph.states:
            assert_close(session.caches[name][0], whole.caches[name][0])


def test_the_traced_function_is_stock(model_of: Callable[[str], Any]) -> None:
    """What stands behind the op in the trace is stock's rule, token by token."""
    import tensorflow as tf
    from keras_hub.src.models.qwen3_5.qwen3_5_gated_delta_net import _recurrent_gated_delta_rule
    from kexport.graphs.capture.adapters.qwen3_5 import _one_by_one

    generator = np.random.default_rng(0)
    query, key = (tf.constant(generator.normal(size=(2, 5, 3, 4)), tf.float32) for _ in range(2))
    value = tf.constant(generator.normal(size=(2, 5, 3, 6)), tf.float32)
    decay, beta = (tf.constant(-generator.random((2, 5, 3)), tf.float32), tf.constant(generator.random((2, 5, 3)), tf.float32))
    state = tf.constant(generator.normal(size=(2, 3, 4, 6)), tf.float32)
    ours = tf.function(_one_by_one)(query, key, value, decay, beta, state)
    stock = _recurrent_gated_delta_rule(query, key, value, decay, beta, initial_state=state, output_final_state=True)
    for got, expected in zip(ours, stock, strict=True):
        assert_close(got, expected)


def test_the_model_is_fed_literally(model_of: Callable[[str], Any]) -> None:
    """Its semantics say so, and those of a family without states do not."""
    from kexport.graphs.capture.semantics import Semantics, semantics_of

    for name in HYBRIDS:
        semantics = semantics_of(model_of(name)[0])
        assert (semantics.schedule, semantics.prefill) == ("lock_step", "buffer")
    assert semantics_of(ZOO["llama"].stock()) == Semantics()
