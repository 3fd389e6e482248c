"""Stock models become the committed graphs, live or abstract, whatever numbers stand in for their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.serialize import dumps

from tests.greedy import greedy
from tests.seed_models import MODELS, load_golden

pytestmark = pytest.mark.slow
FAMILIES = ["mistral", "gemma", "gemma2", "bloom", "bart"]
SHORT = 33  # tokens a row, prompt included


def texts(graphs: dict[str, Any]) -> dict[str, str]:
    """The graphs as their files' text: equal bytes are equal graphs, constants included."""
    return {name: dumps(graph) for name, graph in graphs.items()}


def tokens(name: str, graphs: dict[str, Any], weights: Any = None) -> list[list[int]]:
    """The first tokens the interpreter generates on these graphs."""
    golden = load_golden(name)
    encoder = golden.model.encoder_prompts if "encode" in graphs else None
    return greedy(graphs, weights or golden.weights, golden.model.prompts, SHORT, encoder_prompts=encoder).tokens


def golden_tokens(name: str) -> list[list[int]]:
    """KerasHub's, as far."""
    return [row[:SHORT] for row in load_golden(name).tokens]


@pytest.mark.parametrize("name", MODELS)
def test_a_live_model_is_captured_as_the_committed_graph(name: str, captured_of: Callable[[str], Any]) -> None:
    """Byte for byte, in every configuration, with nothing left as plain ops."""
    captured = captured_of(name)
    assert texts(captured.graphs) == texts(load_golden(name).graphs)
    assert captured.notes == []


@pytest.mark.parametrize("name", MODELS)
def test_an_abstract_model_is_captured_as_the_same_graph(name: str, stock: Any) -> None:
    """Built without a byte of any matrix, twice, with different stand-ins for its vectors: no constant depends on a number of a weight.

    An abstract matrix raises when it is read, so this holds the door against reading weights while capturing, too.
    """
    from kexport.graphs.capture import capture
    from kexport.graphs.capture.abstract import abstract_weights, is_abstract

    for seed in (0, 1):
        with abstract_weights(smallest_matrix=0, seed=seed):
            task = stock.bare(MODELS[name])
        matrices = [variable for variable in stock.float_variables(task) if len(variable.shape) > 1]
        assert len(matrices) > 10 and all(is_abstract(variable) for variable in matrices)
        captured = capture(task)
        assert texts(captured.graphs) == texts(load_golden(name).graphs)
        assert captured.notes == []


def test_reading_an_abstract_weight_is_an_error(stock: Any) -> None:
    """Otherwise the test above would prove nothing."""
    from kexport.graphs.capture.abstract import abstract_weights
    from kexport.runtime.contract.errors import InternalError

    with abstract_weights(smallest_matrix=0):
        task = stock.bare(MODELS["mistral"])
    (table,) = [variable for variable in task.variables if variable.path == "token_embedding/embeddings"]
    for read in (lambda: np.asarray(table.value), lambda: table.numpy(), lambda: table + 1):
        with pytest.raises(InternalError, match=r"KX911.*token_embedding|KX911.*embeddings"):
            read()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_live_models_own_numbers_give_its_tokens(name: str, task_of: Callable[[str], Any], captured_of: Callable[[str], Any]) -> None:
    """Weights read off the object by the names the graph holds."""
    from kexport.graphs.capture.live import LiveWeights

    assert tokens(name, captured_of(name).graphs, LiveWeights(task_of(name).variables)) == golden_tokens(name)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "h5") for name in FAMILIES),
        ("mistral", "shards"),
        ("gemma", "archive"),
        ("bart", "archive"),
        ("mistral_float16", "h5"),
        ("gemma_bfloat16", "h5"),
        ("bloom_float16", "shards"),
    ],
)
def test_recorded_weights_give_the_tokens(name: str, form: str, stock: Any, tmp_path: Path) -> None:
    """KerasHub's own loader is recorded on an abstract model; what it would assign generates the golden tokens.

    From one weight file, from shards, from a .keras archive, stored in float32 and in half precision.
    """
    from kexport.converter.sources import open_source
    from kexport.graphs.capture import capture
    from kexport.graphs.capture.abstract import abstract_weights
    from kexport.graphs.capture.recorded import recording

    model = MODELS[name]
    if form == "archive":
        task = stock.build(model)
        task.save(str(tmp_path / "model.keras"))
        source = open_source(tmp_path / "model.keras")
    else:
        stock.save_preset(model, tmp_path, **({"max_shard_size": 4e-5} if form == "shards" else {}))
        assert (form == "shards") == (len(list(tmp_path.glob("*.weights.h5"))) > 1)
        source = open_source(tmp_path)
    with abstract_weights(smallest_matrix=0):
        task = source.build()
    captured = capture(task)
    with recording() as recorded:
        source.load_weights_into(task)
    weights = recorded.source(task.variables)
    golden = load_golden(name)
    for graph in captured.graphs.values():
        for weight in graph.weights.values():
            for parameter in weight.parameters():
                assert np.array_equal(weights.read(parameter.name), golden.weights.read(parameter.name)), parameter.name
    assert tokens(name, captured.graphs, weights) == golden_tokens(name)


FALLBACKS = [
    *((name, "attention") for name in ("mistral", "gemma", "gemma2", "bart", "mistral_short_window")),
    *((name, "rope") for name in ("mistral", "gemma")),
    *((name, "rms_norm") for name in ("mistral", "gemma", "gemma2")),
    *((name, "layer_norm") for name in ("bloom", "bart")),
    *((name, "gelu") for name in ("gemma", "bloom", "bart")),
    ("mistral", "silu"),
    *((name, "take") for name in ("mistral", "bart")),
]


@pytest.mark.parametrize(("name", "left_out"), FALLBACKS)
def test_what_is_not_recognised_stays_plain_ops_and_exact(name: str, left_out: str, task_of: Callable[[str], Any]) -> None:
    """With an interceptor left out the layer stays in the graph as it is written; rows at positions of their own still agree."""
    from kexport.graphs.capture import capture

    graphs = capture(task_of(name), without=frozenset({left_out})).graphs
    assert texts(graphs) != texts(load_golden(name).graphs)
    assert tokens(name, graphs) == golden_tokens(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_with_nearly_no_intrinsic_the_tokens_are_the_same(name: str, task_of: Callable[[str], Any]) -> None:
    """Everything that can be left out, left out at once: the fallback is no second path."""
    from kexport.graphs.capture import capture

    without = frozenset({"attention", "rope", "rms_norm", "layer_norm", "gelu", "silu"})
    graphs = capture(task_of(name), without=without).graphs
    ops = {node.op for node in graphs["extend"].nodes}
    assert not ops & {"rope", "rms_norm", "layer_norm", "gelu", "silu"}
    assert name == "bloom" or ("cache_write" in ops and "attention" not in ops)
    assert tokens(name, graphs) == golden_tokens(name)


@pytest.mark.parametrize(("name", "left_out"), [("bloom", "bloom_attention"), ("bart", "position_embedding")])
def test_what_has_no_plain_form_is_refused_by_name(name: str, left_out: str, task_of: Callable[[str], Any]) -> None:
    """Alibi over a range of data, and a position table cut at the call's start, cannot be shared by rows of different lengths: an error
    that names the layer, never a graph that is nearly right. Their interceptors are what makes these families work."""
    from kexport.graphs.capture import capture
    from kexport.runtime.contract.errors import UnsupportedError

    with pytest.raises(UnsupportedError) as caught:
        capture(task_of(name), without=frozenset({left_out}))
    assert caught.value.code in ("KX201", "KX203") and ("alibi" in caught.value.message or "position_embedding" in caught.value.message)
