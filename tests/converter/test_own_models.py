"""Models that a user wrote convert as they stand, and adapters of other packages are found: what docs/extending.md promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime, targets
from kexport.converter.conversion import convert_all

pytestmark = pytest.mark.slow
CAPACITY = 48
KINDS = {"layers": True, "own": True, "inlined": False}  # whether its attention is recognised
LEAST_DISTINCT = 10  # of a row's last 30: small tied heads repeat themselves more than other models here


@pytest.fixture(scope="module", params=list(KINDS))
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    """The kind, the task, and its outcomes on every target."""
    from tests.converter.own_models import build

    task = build(request.param)
    return request.param, task, convert_all(task, "all", tmp_path_factory.mktemp(request.param), max_length=CAPACITY)


def test_a_model_of_ones_own_is_proven(converted: tuple[str, Any, Any]) -> None:
    """On every target, with many distinct tokens; attention is fused where it can be found, else plain and still exact."""
    kind, _, outcomes = converted
    assert [outcome.target for outcome in outcomes] == list(targets.known())
    for outcome in outcomes:
        assert outcome.error is None
        manifest = outcome.artifact.manifest
        assert manifest.parity.verdict == "proven" and manifest.parity.near_ties == 0 and manifest.parity.warnings == ()
        assert [fusion.fused for fusion in manifest.fusions] == [KINDS[kind]] * 2
        long = [row for case in manifest.parity.cases for row in case.expected if case.name == "ragged batch"]
        assert long and min(len(set(row[-30:])) for row in long) >= LEAST_DISTINCT


def test_it_generates_what_its_own_loop_generates(converted: tuple[str, Any, Any]) -> None:
    """Through the public generate() of both, on a ragged batch."""
    _, task, outcomes = converted
    ids = np.zeros((2, 30), np.int32)
    ids[0, :4], ids[1, :9] = [5, 9, 14, 3], [7, 1, 30, 31, 8, 2, 2, 60, 11]
    batch = {"token_ids": ids, "padding_mask": ids != 0}
    task.compile(sampler="greedy")
    expected = np.asarray(task.generate({name: array.copy() for name, array in batch.items()}, stop_token_ids=None)["token_ids"])
    with runtime.load(outcomes[0].artifact.directory, preprocessor=None) as model:
        model.compile(sampler="greedy")
        assert model.generate(batch, stop_token_ids=None)["token_ids"].tolist() == expected.tolist()


def plugin(folder: Path, code: str) -> list[str]:
    """An installed package `my_package` with an adapter; the arguments of a Python that sees it."""
    information = folder / "my_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[kexport.adapters]\nmy_family = my_adapter\n")
    (folder / "my_adapter.py").write_text(code)
    program = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    program += "from kexport.runtime.contract.errors import KexportError\ntry:\n    import kexport.graphs.capture\n"
    program += "except KexportError as error:\n    print(error.code, error.message)\nelse:\n"
    program += "    from kexport.graphs.capture.intercept import INTERCEPTORS\n    print('my_attention' in INTERCEPTORS)\n"
    return [sys.executable, "-c", program]


def test_an_adapter_of_another_package_registers_itself(tmp_path: Path) -> None:
    """Found through its entry point, without a line of ours that names it."""
    code = "from kexport.graphs.capture.intercept import interceptor\n\n@interceptor('my_attention')\ndef install(trace, patches):\n    pass\n"
    assert subprocess.run(plugin(tmp_path, code), capture_output=True, text=True, check=True).stdout.strip() == "True"


def test_a_broken_adapter_is_named(tmp_path: Path) -> None:
    """With its package and what it said."""
    said = subprocess.run(plugin(tmp_path, "raise RuntimeError('no such family')\n"), capture_output=True, text=True, check=True).stdout
    assert said.startswith("KX216") and "my_family" in said and "my-package" in said and "no such family" in said
