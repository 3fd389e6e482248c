"""RWKV-7's graph, run by the reference, against stock: states after prompts of any length, and decoding from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import new_caches, run

from tests.zoo import ZOO

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5  # of the largest number compared with
LONGEST = 40  # more than two chunks of the parallel form
SOME_LENGTHS = (1, 2, 15, 16, 17, 33, LONGEST)
PADS = 5


@pytest.fixture(scope="module")
def task() -> Any:
    """The zoo's stock model."""
    return ZOO["rwkv7"].build()


@pytest.fixture(scope="module")
def extend(task: Any) -> Any:
    """(token ids [rows, tokens], first position, caches) -> logits; the captured graph over the live numbers."""
    from kexport.graphs.capture import capture
    from kexport.graphs.capture.live import LiveWeights

    graph, weights = capture(task).graphs["extend"], LiveWeights(task.variables)

    def step(ids: Any, start: int, caches: Any) -> Any:
        ids = np.asarray(ids, np.int32)
        positions = np.broadcast_to(np.arange(start, start + ids.shape[1], dtype=np.int32), ids.shape)
        return run(graph, {"token_ids": ids, "positions": positions}, weights, caches)["logits"]

    step.new = lambda rows: new_caches(graph, rows, 0)
    return step


def prefilled(task: Any, ids: Any, pads: int) -> Any:
    """Stock's own prefill of rows of one length, `pads` padded tokens in front."""
    import tensorflow as tf

    rows = np.pad(np.asarray(ids, np.int32), ((0, 0), (pads, 0)))
    mask = np.broadcast_to(np.arange(rows.shape[1]) >= pads, rows.shape)
    return task._build_cache(tf.constant(rows), tf.constant(mask))[1]


def prompts(length: int, task: Any) -> Any:
    """Two rows of random ids, none of them padding."""
    return np.random.default_rng(length).integers(1, task.backbone.vocabulary_size, (2, length))


def assert_close(ours: Any, theirs: Any) -> None:
    """Equal but for rounding."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * float(np.abs(theirs).max()))


def assert_same_states(cache: Any, caches: Any) -> None:
    """Stock's states are the graph's: matrices the other way round, and the two last tokens of each layer."""
    states, shifts = (np.asarray(tensor) for tensor in cache)
    for layer in range(states.shape[1]):
        assert_close(caches[f"recurrent.{layer}"][0], states[:, layer].swapaxes(-1, -2))
        for place, name in enumerate(("time_shift", "channel_shift")):
            assert_close(caches[f"{name}.{layer}"][0], shifts[:, layer, place])


@pytest.mark.parametrize("length", SOME_LENGTHS)
def test_prefill_is_stocks_left_padded_prefill(length: int, task: Any, extend: Any) -> None:
    """A prompt alone leaves the states that it leaves behind padding; the model never sees how much padding there was."""
    ids = prompts(length, task)
    caches = extend.new(2)
    extend(ids, 0, caches)
    assert_same_states(prefilled(task, ids, PADS), caches)
    assert_same_states(prefilled(task, ids, 0), caches)


def test_every_length_is_any_pieces(task: Any, extend: Any) -> None:
    """Whatever its length, a prompt fed at once leaves what it leaves in pieces."""
    ids = prompts(LONGEST, task)
    pieces = extend.new(2)
    for length in range(1, LONGEST + 1):
        in_pieces = extend(ids[:, length - 1 : length], length - 1, pieces)[:, -1]
        whole = extend.new(2)
        at_once = extend(ids[:, :length], 0, whole)[:, -1]
        assert_close(at_once, in_pieces)
        for name, (state,) in whole.items():
            assert_close(state, pieces[name][0])


def test_decoding_is_stocks(task: Any, extend: Any) -> None:
    """Token by token behind a prompt, the padding id among the tokens."""
    import tensorflow as tf

    ids, start = prompts(LONGEST, task), 18
    ids[0, start + 3] = ids[1, start + 7 : start + 9] = 0
    cache, caches = prefilled(task, ids[:, :start], PADS), extend.new(2)
    extend(ids[:, :start], 0, caches)
    for place in range(start, LONGEST):
        token = ids[:, place : place + 1]
        logits, _, cache = task.call_with_cache(tf.constant(token, tf.int32), cache)
        assert_close(extend(token, place, caches), logits)
    assert_same_states(cache, caches)


def test_a_first_token_is_never_padding(task: Any, extend: Any) -> None:
    """Stock prefills a prompt of one token as the id 0 and counts it; later on the same id is padding."""
    caches = extend.new(2)
    extend([[0], [0]], 0, caches)
    assert_same_states(prefilled(task, [[0], [0]], PADS), caches)
    before = {name: state.copy() for name, (state,) in caches.items() if name.startswith("recurrent")}
    extend([[0], [0]], 1, caches)
    assert all(np.array_equal(caches[name][0], state) for name, state in before.items())
    assert any(state.any() for state in before.values())


def test_whole_rows_are_stocks(task: Any) -> None:
    """Without caches, at every position: padding behind, in front and between, over several chunks."""
    from kexport.graphs.capture.forward import capture_forward
    from kexport.graphs.capture.live import LiveWeights

    graph, notes = capture_forward(task, "score")
    assert notes == [] and not graph.states and len(list(graph.of_op("delta_rule_rows"))) == task.backbone.num_layers
    lengths = np.array([[LONGEST], [3], [17]])
    behind = np.arange(LONGEST) < lengths
    between = behind.copy()
    between[:, 2] = False
    for mask in (behind, behind[:, ::-1], between):
        ids = np.random.default_rng(7).integers(1, task.backbone.vocabulary_size, mask.shape).astype(np.int32)
        feeds = {"token_ids": ids * mask, "padding_mask": mask}
        assert_close(run(graph, feeds, LiveWeights(task.variables))["logits"], task(feeds))


def test_graph_is_recognised(task: Any) -> None:
    """One recurrence and two shifts a layer, and nothing of stock's loop."""
    from kexport.graphs.capture import capture

    captured = capture(task)
    graph = captured.graphs["extend"]
    layers = task.backbone.num_layers
    assert captured.notes == []
    counts = {op: len(list(graph.of_op(op))) for op in ("delta_rule", "delay", "keep_last")}
    assert counts == {"delta_rule": layers, "delay": 2 * layers, "keep_last": 2 * layers}
    assert {state.kind for state in graph.states.values()} == {"recurrent", "convolution"} and not graph.slots


def test_the_model_is_left_as_found(task: Any) -> None:
    """Every layer runs stock's recurrence again, and the classes their own methods."""
    from keras_hub.src.models.rwkv7 import rwkv7_layer as stock
    from kexport.graphs.capture import capture
    from kexport.graphs.capture.forward import capture_forward

    methods = stock.RWKV7TimeMix.call, stock.TimeShift.call
    capture(task)
    capture_forward(task, "score")
    assert (stock.RWKV7TimeMix.call, stock.TimeShift.call) == methods
    for name in ("RWKV7_OP_RNN", "RWKV7_OP_INFERENCE"):
        assert {getattr(layer.att, name) for layer in task.backbone.rwkv_layers} == {stock.rnn_generalized_delta_rule}
