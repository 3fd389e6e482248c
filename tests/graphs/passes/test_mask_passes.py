"""masks_from_bias, classify_masks, masks_from_positions, decide_conditions: case by case, refusals included; a second run changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.ops.attention import BIAS, KEY_MASK, MASK
from kexport.graphs.passes import ClassifyMasks, DecideConditions, MasksFromBias, MasksFromPositions, RemoveDeadCode
from kexport.graphs.passes.classify_masks import FAR_IF_SQUARE, START_INDEX

from tests.graphs.helpers import applied, ops_of, parameter, same_outputs

Build = Callable[[Graph], str]
TOTAL = 9


def number(graph: Graph, value: int) -> str:
    return graph.add_constant(np.int32(value))


def row_and_key(graph: Graph) -> tuple[str, str]:
    """Positions [sequence, 1] from the call's start, keys [total]."""
    tokens = graph.add_node("range", [], size="sequence")
    row = graph.add_node("reshape", [graph.add_node("add", [tokens, START_INDEX])], shape=("sequence", 1))
    return row, graph.add_node("range", [], size="total")


def causal(graph: Graph) -> str:
    row, key = row_and_key(graph)
    return graph.add_node("le", [key, row])


def windowed(size: int) -> Build:
    def build(graph: Graph) -> str:
        row, key = row_and_key(graph)
        inside = graph.add_node("lt", [graph.add_node("sub", [row, key]), number(graph, size)])
        return graph.add_node("and", [graph.add_node("le", [key, row]), inside])

    return build


def square(size: int) -> Build:
    """A band built as [total, total] and gathered by row, as some stock code does."""

    def build(graph: Graph) -> str:
        row = graph.add_node("reshape", [graph.add_node("range", [], size="total")], shape=("total", 1))
        key = graph.add_node("range", [], size="total")
        inside = graph.add_node("lt", [graph.add_node("sub", [row, key]), number(graph, size)])
        band = graph.add_node("and", [graph.add_node("le", [key, row]), inside])
        tokens = graph.add_node("add", [graph.add_node("range", [], size="sequence"), START_INDEX])
        return graph.add_node("gather", [band, tokens], axis=0)

    return build


def everything(graph: Graph) -> str:
    row, key = row_and_key(graph)
    return graph.add_node("or", [graph.add_node("le", [key, row]), graph.add_node("le", [row, key])])


def shifted(graph: Graph) -> str:
    """Sees one key beyond its own."""
    row, key = row_and_key(graph)
    return graph.add_node("le", [key, graph.add_node("add", [row, number(graph, 1)])])


def strict(graph: Graph) -> str:
    """Does not see itself."""
    row, key = row_and_key(graph)
    return graph.add_node("lt", [key, row])


def every_other(graph: Graph) -> str:
    """Sees keys up to half of its position: no causal rule."""
    row, key = row_and_key(graph)
    return graph.add_node("le", [graph.add_node("add", [key, key]), row])


def decoder(mask: Build, *, window: int | None = None, plain: bool = False) -> Graph:
    """One attention over a written slot under the mask [batch, 1, sequence, total]; `plain`: logits under a where instead."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", "sequence", 1, 2))
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.add_input(START_INDEX, "int32", ())
    graph.slots["self.0"] = Slot("self", 1, 2, 2)
    visible = graph.add_node("reshape", [mask(graph)], shape=(1, 1, "sequence", "total"))
    if plain:
        data = graph.add_node("cache_write", ["x", "positions"], slot="self.0", part=0)
        data = graph.add_node("reduce_sum", [graph.add_node("transpose", [data], permutation=(0, 2, 3, 1))], axes=(2,), keepdims=True)
        graph.outputs["y"] = graph.add_node("where", [visible, data, graph.add_constant(np.float32(0))])
    else:
        inputs = ["x", "x", "x", "positions", "", visible]
        graph.outputs["y"] = graph.add_node(
            "attention", inputs, layer="layer_0/attention", scale=1.0, slot="self.0", write=True, window=window, softcap=None
        )
    return graph


def feeds(start: int = 2) -> dict[str, Any]:
    x = np.random.default_rng(0).standard_normal((2, 3, 1, 2)).astype(np.float32)
    return {"x": x, "positions": np.tile(start + np.arange(3, dtype=np.int32), (2, 1)), START_INDEX: np.int32(start)}


def classified(graph: Graph) -> tuple[Graph, Any, Any]:
    """The graph after the pass, its attention, the result; the same numbers."""
    after, result = applied(graph, ClassifyMasks())
    same_outputs(graph, after, feeds(), total=TOTAL)
    (node,) = after.of_op("attention")
    return after, node, result


# ---- classify_masks


def test_classify_1_everything_visible_is_no_mask() -> None:
    """Computed, but always true."""
    _, node, result = classified(decoder(everything))
    assert not node.input(MASK) and not node.attrs.get("causal") and result.changes == 1


def test_classify_2a_causal() -> None:
    """key <= position."""
    after, node, _ = classified(decoder(causal))
    assert node.attrs["causal"] is True and node.attrs["window"] is None and not node.input(MASK)
    RemoveDeadCode()(after)
    assert ops_of(after) == ["attention"] and START_INDEX not in after.inputs


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 1000, 500_000])
def test_classify_2b_causal_with_a_window(size: int) -> None:
    """Any size, also one far beyond the probes' own lengths: it is measured over a million keys."""
    _, node, _ = classified(decoder(windowed(size)))
    assert (node.attrs["causal"], node.attrs["window"]) == (True, size) and not node.input(MASK)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_classify_2c_a_square_band(size: int) -> None:
    """Probed over fewer keys, because a square of a million keys would not fit."""
    _, node, _ = classified(decoder(square(size)))
    assert (node.attrs["causal"], node.attrs["window"]) == (True, size)


def test_classify_2d_a_square_band_beyond_what_is_probed_is_kept() -> None:
    """A window that the probe could not see must not be taken for none."""
    _, node, result = classified(decoder(square(FAR_IF_SQUARE)))
    assert node.input(MASK) and "layer_0/attention" in result.refusals[0]


@pytest.mark.parametrize(("inner", "mask", "expected"), [(2, 5, 2), (5, 2, 2)])
def test_classify_2e_the_smaller_of_two_windows_holds(inner: int, mask: int, expected: int) -> None:
    """The layer's own window and the mask's."""
    _, node, _ = classified(decoder(windowed(mask), window=inner))
    assert node.attrs["window"] == expected


@pytest.mark.parametrize("mask", [shifted, strict, every_other])
def test_classify_4_a_mask_of_no_known_rule_is_kept(mask: Build) -> None:
    """One key more, one key less, another slope: noted, not guessed."""
    _after, node, result = classified(decoder(mask))
    assert node.input(MASK) and not node.attrs.get("causal") and result.changes == 0 and "layer_0/attention" in result.refusals[0]


def encoder(dtype: str = "bool", *, name: str = "encoder_padding_mask", edit: Callable[[Graph, str], str] | None = None) -> Graph:
    """Attention over given keys under the padding of the encoder."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", "encoder_sequence", 1, 2))
    graph.add_input(name, dtype, ("batch", "encoder_sequence"))
    visible = name if dtype == "bool" else graph.add_node("cast", [name], dtype="bool")
    visible = graph.add_node("reshape", [visible], shape=("batch", 1, 1, "encoder_sequence"))
    if edit:
        visible = edit(graph, visible)
    graph.outputs["y"] = graph.add_node("attention", ["x", "x", "x", "", "", visible], layer="encoder/attention", scale=1.0)
    return graph


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_classify_3_padding_is_a_key_mask(dtype: str) -> None:
    """The input itself, whatever its dtype."""
    graph = encoder(dtype)
    after, result = applied(graph, ClassifyMasks())
    (node,) = after.of_op("attention")
    assert node.input(KEY_MASK) == "encoder_padding_mask" and not node.input(MASK) and result.changes == 1
    mask = np.array([[1, 1, 0], [1, 0, 0]]).astype(dtype)
    x = np.random.default_rng(0).standard_normal((2, 3, 1, 2)).astype(np.float32)
    same_outputs(graph, after, {"x": x, "encoder_padding_mask": mask})


def inverted(graph: Graph, visible: str) -> str:
    return graph.add_node("not", [visible])


def by_query(graph: Graph, visible: str) -> str:
    """Padding hides queries instead of keys."""
    return graph.add_node("transpose", [visible], permutation=(0, 1, 3, 2))


def by_weight(graph: Graph, visible: str) -> str:
    """A learned threshold has its say."""
    learned = graph.add_node("lt", [parameter(graph, "w", 1), graph.add_constant(np.float32(0))])
    return graph.add_node("and", [visible, learned])


def both_sides(size: int) -> Callable[[Graph, str], str]:
    """A window of `size` keys to either side, as encoders with local attention have, wider than the short probes."""

    def edit(graph: Graph, visible: str) -> str:
        key = graph.add_node("range", [], size="encoder_sequence")
        row = graph.add_node("reshape", [key], shape=("encoder_sequence", 1))
        near = graph.add_node("lt", [graph.add_node("abs", [graph.add_node("sub", [row, key])]), number(graph, size)])
        return graph.add_node("and", [visible, near])

    return edit


@pytest.mark.parametrize("edit", [inverted, by_query, by_weight, both_sides(40), both_sides(2 * FAR_IF_SQUARE)])
def test_classify_5_padding_used_in_another_way_is_kept(edit: Callable[[Graph, str], str]) -> None:
    """Inverted, on the queries, mixed with a weight, or with a window that short rows do not show."""
    after, result = applied(encoder(edit=edit), ClassifyMasks())
    (node,) = after.of_op("attention")
    assert node.input(MASK) and not node.input(KEY_MASK) and "encoder/attention" in result.refusals[0]


def test_classify_6_a_mask_of_other_inputs_is_kept() -> None:
    """Nothing is known of an input that is not padding."""
    after, result = applied(encoder(name="segment_ids"), ClassifyMasks())
    assert next(after.of_op("attention")).input(MASK) and result.refusals


# ---- masks_from_positions


@pytest.mark.parametrize(("mask", "window"), [(causal, None), (windowed(2), 2), (windowed(5), 5)])
def test_positions_1_a_mask_of_the_start_becomes_one_of_positions(mask: Build, window: int | None) -> None:
    """The same numbers where rows stand together, and each row's own where they do not."""
    graph = decoder(mask, plain=True)
    after, result = applied(graph, MasksFromPositions())
    same_outputs(graph, after, feeds(), total=TOTAL)
    RemoveDeadCode()(after)
    assert result.changes == 1 and START_INDEX not in after.inputs
    from kexport.graphs.interpreter import new_caches, run

    ragged = {"x": feeds()["x"], "positions": np.array([[0, 1, 2], [4, 5, 6]], np.int32)}
    y = run(after, ragged, None, new_caches(after, 2, TOTAL))["y"]
    position, key = ragged["positions"][:, None, :, None], np.arange(TOTAL)
    visible = (key <= position) & ((position - key < window) if window else True)
    assert not y[np.broadcast_to(~visible, y.shape)].any() and y[np.broadcast_to(visible, y.shape)].any()


def test_positions_2_a_mask_of_no_rule_is_kept_and_noted() -> None:
    """The start index stays an input; capture refuses such a graph by name."""
    after, result = applied(decoder(shifted, plain=True), MasksFromPositions())
    assert result.changes == 0 and "start index" in result.refusals[0] and START_INDEX in after.inputs


def test_positions_3_a_graph_without_a_start_is_left_alone() -> None:
    """Nothing to look for."""
    assert applied(encoder(), MasksFromPositions())[1].changes == 0


def test_positions_4_a_mask_as_numbers_stays_numbers() -> None:
    """A float mask is rebuilt in its own dtype."""
    graph = decoder(causal, plain=True)
    (where,) = graph.of_op("where")
    as_numbers = graph.add_node("cast", [where.input(0)], dtype="float32", before=where)
    where.op, where.inputs = "mul", (as_numbers, where.input(1))
    after, result = applied(graph, MasksFromPositions())
    same_outputs(graph, after, feeds(), total=TOTAL)
    assert result.changes == 1 and all(START_INDEX not in node.inputs for node in after.of_op("mul"))


# ---- decide_conditions


def choice(condition: Build, *, wide: bool = False) -> Graph:
    """where(condition, x, -x)."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", "sequence", "total") if not wide else ("batch", 1, 1))
    graph.add_input(START_INDEX, "int32", ())
    graph.outputs["y"] = graph.add_node("where", [condition(graph), "x", graph.add_node("neg", ["x"])])
    return graph


def never(graph: Graph) -> str:
    return graph.add_node("not", [everything(graph)])


@pytest.mark.parametrize(("condition", "kept"), [(everything, "x"), (never, "neg")])
def test_decide_1_what_is_always_the_same_is_decided(condition: Build, kept: str) -> None:
    """True for all sizes, or false for all."""
    after, result = applied(choice(condition), DecideConditions())
    RemoveDeadCode()(after)
    assert result.changes == 1 and ops_of(after) == ([] if kept == "x" else ["neg"])


def test_decide_2_a_real_mask_is_kept() -> None:
    """Some keys are hidden, some are shown."""
    assert applied(choice(causal), DecideConditions())[1].changes == 0


def test_decide_3_a_choice_that_broadcasts_is_kept() -> None:
    """The chosen operand is smaller than the result."""
    assert applied(choice(everything, wide=True), DecideConditions())[1].changes == 0


def test_decide_4_a_condition_on_data_is_kept() -> None:
    """Even one that held on every probe."""

    def on_data(graph: Graph) -> str:
        return graph.add_node("le", ["x", graph.add_node("abs", ["x"])])

    assert applied(choice(on_data), DecideConditions())[1].changes == 0


def test_decide_5_a_window_wider_than_the_probes_is_kept() -> None:
    """It hides nothing from short rows: by the call's start, and over whole rows, where nothing says how long they get."""

    def near(graph: Graph) -> str:
        row, key = row_and_key(graph)
        return graph.add_node("lt", [graph.add_node("sub", [row, key]), number(graph, 100)])

    def over_whole_rows(graph: Graph) -> str:
        row = graph.add_node("reshape", [graph.add_node("range", [], size="sequence")], shape=("sequence", 1))
        distance = graph.add_node("sub", [row, graph.add_node("range", [], size="total")])
        return graph.add_node("lt", [distance, number(graph, 100)])

    for condition in (near, over_whole_rows):
        assert applied(choice(condition), DecideConditions())[1].changes == 0


# ---- masks_from_bias


def adding(graph: Graph, visible: str, amount: float = -1e9, one: float = 1.0) -> str:
    """(1 - cast(visible)) * amount, as stock code writes it."""
    kept = graph.add_node("cast", [visible], dtype="float32")
    return graph.add_node("mul", [graph.add_node("sub", [graph.add_constant(np.float32(one)), kept]), graph.add_constant(np.float32(amount))])


def with_bias(make: Callable[[Graph, str, str], str], **slot: Any) -> Graph:
    """Attention, and the bias that `make` gives of a padding mask [batch, 1, 1, keys] and a local mask [1, 1, sequence, keys]."""
    graph = Graph("test", slots={"cross.0": Slot("cross", 2, 4, 4)} if slot else {})
    heads = graph.add_input("x", "float32", ("batch", "sequence", 2, 4))
    padding = graph.add_node("reshape", [graph.add_input("padding_mask", "bool", ("batch", "sequence"))], shape=("batch", 1, 1, "sequence"))
    local = graph.add_input("local", "bool", (1, 1, "sequence", "sequence"))
    bias = make(graph, padding, local)
    keys = "" if slot else heads
    graph.outputs["y"] = graph.add_node("attention", [heads, keys, keys, "", bias], scale=0.5, **slot)
    return graph


@pytest.mark.parametrize(
    "make",
    [
        lambda graph, padding, local: adding(graph, padding),
        lambda graph, padding, local: graph.add_node("add", [adding(graph, padding), adding(graph, local)]),
        lambda graph, padding, local: graph.add_node("broadcast_to", [adding(graph, local)], shape=("batch", 1, "sequence", "sequence")),
    ],
    ids=["padding", "padding and local", "broadcast"],
)
def test_a_bias_that_only_hides_keys_is_a_mask(make: Callable[[Graph, str, str], str]) -> None:
    """The mask hides the same keys, and the numbers stay."""
    graph = with_bias(make, slot="cross.0")
    after, result = applied(graph, MasksFromBias())
    (node,) = after.of_op("attention")
    assert result.changes == 1 and not node.input(BIAS) and after.type_of(node.input(MASK)).dtype == "bool"
    generator = np.random.default_rng(0)
    local = np.abs(np.subtract.outer(np.arange(5), np.arange(5))) < 2
    feeds = {"x": generator.standard_normal((2, 5, 2, 4)).astype(np.float32), "padding_mask": np.ones((2, 5), bool), "local": local[None, None]}
    feeds["padding_mask"][1, 4:] = False
    caches = {"cross.0": [generator.standard_normal((2, 5, 2, 4)).astype(np.float32) for _ in range(2)]}
    numbers = [run(one, feeds, None, caches, encoder_sequence=5)["y"] for one in (graph, after)]
    np.testing.assert_allclose(numbers[1], numbers[0], atol=1e-6)


@pytest.mark.parametrize(("per_token", "changes"), [(True, 0), (False, 1)])
def test_without_a_cache_only_masks_of_keys_are_taken(per_token: bool, changes: int) -> None:
    """A token from which everything is hidden keeps the mean that stock gives it."""
    graph = with_bias(lambda graph, padding, local: adding(graph, local if per_token else padding))
    after, result = applied(graph, MasksFromBias())
    (node,) = after.of_op("attention")
    assert result.changes == changes and bool(node.input(BIAS)) == per_token


@pytest.mark.parametrize(
    "make",
    [
        lambda graph, padding, local: adding(graph, padding, amount=-10.0),
        lambda graph, padding, local: adding(graph, padding, one=0.5),
        lambda graph, padding, local: graph.add_node("add", [adding(graph, padding), graph.add_input("more", "float32", (1, 2, "sequence", "sequence"))]),
    ],
    ids=["small number", "not from 1", "something else added"],
)
def test_other_biases_stay(make: Callable[[Graph, str, str], str]) -> None:
    """What changes the logits of visible keys, or does not hide for good, is no mask."""
    after, result = applied(with_bias(make), MasksFromBias())
    (node,) = after.of_op("attention")
    assert result.changes == 0 and node.input(BIAS)
