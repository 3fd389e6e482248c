"""Mixtures of experts in OpenVINO: the plugin makes GatherMatmul of them, with the interpreter's numbers; what a step reads of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from kexport.graphs.interpreter import run
from kexport.targets.base import EmitOptions
from kexport.targets.openvino.emit import emit

from tests.targets.mixtures import COUNT, HIDDEN, MIXTURES, TOKENS, expert_bytes, rows
from tests.targets.onnx.toys import Toy, decoder
from tests.targets.openvino.runs import EXACT, kernels, write

BOUND = 2e-6  # of the largest number
PRODUCTS = {"silu": 3, "gelu": 3, "gpt-oss": 2}


def compiled(name: str, directory: Path, **options: Any) -> tuple[Any, Any, Any]:
    """The graph, its only file compiled, and what was emitted."""
    graph = MIXTURES[name].graph()
    emitted = emit({graph.name: graph}, MIXTURES[name].source(graph), directory, EmitOptions(8, **options))
    return graph, ov.Core().compile_model(directory / emitted.signatures[0].file, "CPU", EXACT), emitted


def kinds(model: Any) -> Counter[str]:
    """The kernels of a compiled model."""
    return Counter(node.get_rt_info()["layerType"].astype(str) for node in model.get_runtime_model().get_ordered_ops())


@pytest.mark.parametrize("name", MIXTURES)
def test_the_interpreters_numbers(name: str, tmp_path: Path) -> None:
    """One token and several, one row and several; every product of the experts is one that gathers."""
    graph, model, _ = compiled(name, tmp_path)
    assert kinds(model)["GatherMatmul"] == PRODUCTS[MIXTURES[name].form]
    for batch, sequence in TOKENS:
        x = rows(batch, sequence)
        got, want = model({"x": x})["y"], run(graph, {"x": x}, MIXTURES[name].source(graph))["y"]
        assert got.shape == want.shape and np.abs(got - want).max() < BOUND * np.abs(want).max()


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", PRODUCTS)
def test_narrow_weights_are_gathered_too(form: str, stored: str, tmp_path: Path) -> None:
    """Stored narrow, the products stay those that gather."""
    _, model, emitted = compiled(form, tmp_path, stored_dtype=stored)
    found = kinds(model)
    assert found["GatherMatmul"] == PRODUCTS[form], found
    assert emitted.experts[0].sparse


@pytest.mark.parametrize("form", PRODUCTS)
def test_inside_a_decoder(form: str, tmp_path: Path) -> None:
    """With a cache and a head around it the plugin recognises every mixture, as the records say."""
    files = write(tmp_path, decoder(Toy(layers=2, experts=COUNT, experts_form=form)))
    assert kernels(files)["GatherMatmul"] == 2 * PRODUCTS[form]
    records = files.emitted.experts
    assert [record.layer for record in records] == ["layer0.experts", "layer1.experts"]
    assert all(record.sparse and not record.reason and (record.count, record.taken) == (COUNT, 2) for record in records)


@pytest.mark.parametrize("name", ["silu", "gpt-oss"])
def test_what_a_step_reads(name: str, tmp_path: Path) -> None:
    """All weights, but of the experts one token's share."""
    graph, _, emitted = compiled(name, tmp_path)
    share = MIXTURES[name].taken / COUNT
    assert emitted.signatures[0].weight_bytes == HIDDEN * COUNT * 4 + round(share * expert_bytes(graph))
