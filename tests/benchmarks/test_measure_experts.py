"""The figures of mixtures of experts, on a decoder that takes a moment."""

from __future__ import annotations

import json

import measure_experts
import pytest
from click.testing import CliRunner

SMALL = ("--experts", "8", "--taken", "2", "--layers", "1", "--hidden", "32", "--intermediate", "48", "--steps", "3", "--threads", "1")


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_both_sides_are_measured(target: str) -> None:
    """They agree on the logits, and a step of ours reads the experts' share less."""
    result = CliRunner().invoke(measure_experts.main, ["--target", target, *SMALL])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["experts"] == "2 of 8" and document["ms"]["ours"] > 0 < document["ms"]["dense"]
    assert document["MB a step reads"]["ours"] < document["MB a step reads"]["dense"]


def test_steps_beyond_the_capacity_are_refused() -> None:
    """Before anything is written."""
    assert CliRunner().invoke(measure_experts.main, ["--target", "onnx", "--steps", "1000"]).exit_code != 0
