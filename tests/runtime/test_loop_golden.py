"""Whole batches end as they end in KerasHub's own samplers (recorded by tests/golden/write_loop_golden.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.runtime import samplers
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.generation import Job, generate
from kexport.runtime.prompts import Prompt

from .counting_engine import CountingEngine

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "loops.json").read_text(encoding="utf-8"))
RNG = Rng(mode="tf_cpu", threads=GOLDEN["threads"])


def job_of(case: dict[str, Any]) -> Job:
    """The batch of a golden case."""
    ids = np.zeros((len(case["rows"]), case["length"]), np.int32)
    mask = np.zeros(ids.shape, bool)
    for number, row in enumerate(case["rows"]):
        ids[number, : len(row)], mask[number, : len(row)] = row, True
    return Job(Prompt(ids, mask), stop_ids=None if case["stop_ids"] is None else tuple(case["stop_ids"]), rng=RNG)


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case['sampler']}-{number}") for number, case in enumerate(GOLDEN["cases"])])
@pytest.mark.parametrize("schedule", ["sampler's", "lock step"])
def test_batches_are_keras_hubs(case: dict[str, Any], schedule: str) -> None:
    """The ids of two calls in a row, pad content and tokens behind stops included."""
    sampler = samplers.get({"class_name": case["sampler"], "config": case["config"]})
    for expected in case["outputs"]:
        result = generate(CountingEngine(), sampler, job_of(case), lock_step=None if schedule == "sampler's" else True)
        assert result.ids.tolist() == expected


def test_beams_differ_from_greedy() -> None:
    """The recorded beam searches find other sequences than greedy, so that the comparison can fail."""
    outputs = {(case["sampler"], case["config"].get("num_beams"), str(case["rows"])): case["outputs"][0] for case in GOLDEN["cases"]}
    for (name, beams, rows), ids in outputs.items():
        if name == "BeamSampler" and beams == 3 and max(map(len, ids)) > 11:
            assert ids != outputs["GreedySampler", None, rows]
