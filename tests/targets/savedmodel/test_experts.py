"""Mixtures of experts in TensorFlow: a step slices its experts' matrices, more rows gather them or multiply with all; what a step reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.runtime.engines.base import open_engine

from tests.targets.mixtures import COUNT, HIDDEN, MIXTURES, Mixture, expert_bytes, rows
from tests.targets.onnx.toys import CAPACITY, Reference, Toy, decoder, source_of

pytestmark = pytest.mark.slow
BOUND = 2e-6  # of the largest number
DECODER_BOUND = 1e-5  # of the logits' standard deviation


def traced(mixture: Mixture, *, one_token: bool, stored: str = "float32") -> tuple[Any, Any, Any]:
    """The graph, a function of x, and the builder that made it."""
    from kexport.runtime.plain_tensorflow import tf
    from kexport.targets.savedmodel import ops as _ops  # noqa: F401
    from kexport.targets.savedmodel.builder import Builder
    from kexport.targets.savedmodel.lowering import LOWERINGS
    from kexport.targets.savedmodel.weight_tensors import WeightTensors

    graph, builders = mixture.graph(), []

    class Filled(WeightTensors):
        def _make(self, label: str, weight: Any) -> Any:
            variable = super()._make(label, weight)
            with tf.init_scope():
                variable.assign(weight.materialize(mixture.source(graph)))
            return variable

    @tf.function(autograph=False)
    def function(x: Any) -> Any:
        b = Builder(graph, {"batch": tf.shape(x)[0], "sequence": 1 if one_token else tf.shape(x)[1]}, Filled(stored))
        b.set("x", x)
        for node in graph.nodes:
            LOWERINGS[node.op](node, b)
        builders.append(b)
        return b.value(graph.outputs["y"])

    concrete = function.get_concrete_function(tf.TensorSpec([None, 1 if one_token else None, HIDDEN]))
    return graph, lambda x: concrete(tf.constant(x)).numpy(), builders[-1]


@pytest.mark.parametrize("name", MIXTURES)
def test_the_interpreters_numbers(name: str) -> None:
    """Steps of one row, of few and of many, and several tokens."""
    for one_token, shapes in ((True, ((1, 1), (2, 1), (7, 1))), (False, ((1, 1), (1, 7), (3, 5)))):
        graph, function, builder = traced(MIXTURES[name], one_token=one_token)
        assert [record.sparse for record in builder.experts] == [one_token and MIXTURES[name].taken < COUNT]
        for shape in shapes:
            got, want = function(rows(*shape)), run(graph, {"x": rows(*shape)}, MIXTURES[name].source(graph))["y"]
            assert got.shape == want.shape and np.abs(got - want).max() < BOUND * np.abs(want).max()


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", ["silu", "gpt-oss"])
def test_narrow_experts_are_widened_where_they_are_taken(form: str, stored: str) -> None:
    """The three ways of a step give what the plain one gives over the same narrow numbers."""
    _, step, _ = traced(MIXTURES[form], one_token=True, stored=stored)
    _, plain, _ = traced(MIXTURES[form], one_token=False, stored=stored)
    for batch in (1, 2, 7):
        x = rows(batch, 1)
        got, want = step(x), plain(x)
        assert np.abs(got - want).max() < BOUND * np.abs(want).max()


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("form", ["silu", "gpt-oss"])
def test_what_a_step_reads(form: str, stored: str) -> None:
    """All other weights, and of the experts one token's share, as narrow as they are stored."""
    graph, _, builder = traced(MIXTURES[form], one_token=True, stored=stored)
    router = next(size for label, size in builder.whole.items() if "router" in label)
    assert sum(builder.whole.values()) - router == expert_bytes(graph, stored) * MIXTURES[form].taken // COUNT


@pytest.mark.parametrize("form", ["silu", "gpt-oss", "gelu"])
def test_inside_a_decoder(form: str, tmp_path: Path) -> None:
    """A ragged prefill and steps of one row and of three, through the engine; the record tells of the step."""
    from tests.targets.savedmodel.artifacts import emit

    graph = decoder(Toy(layers=2, experts=COUNT, experts_form=form))
    source, rng = source_of(graph), np.random.default_rng(3)
    manifest = emit(tmp_path, {"extend": graph}, source, capacity=CAPACITY)
    assert Counter(record.sparse for record in manifest.experts) == {True: 2}
    for counts in (np.array([5]), np.array([5, 2, 4])):
        reference = Reference(graph, source, len(counts))
        with open_engine(tmp_path, manifest) as engine:
            cache = engine.new_cache(len(counts), CAPACITY)
            for step in range(4):
                new = counts if step == 0 else np.ones_like(counts)
                tokens = rng.integers(0, 61, (len(counts), new.max()))
                got, want = engine.extend(cache, tokens, new), reference.extend(tokens, new)[:, -1]
                assert np.abs(got - want).max() < DECODER_BOUND * want.std()
