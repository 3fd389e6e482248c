"""Low-rank updates: added when a parameter is read, and followed to their places in stored tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.graphs.low_rank import LowRank, UpdatedWeights, placements
from kexport.graphs.weights import Parameter, Weight, concatenate
from kexport.runtime.adapters import _changed
from kexport.runtime.contract.manifest import AdapterPart, AdapterTensor

QUERY, VALUE = Parameter((3, 8, 4), "float32", "query"), Parameter((8, 5), "float32", "value")
PACKED = concatenate((QUERY.transpose((1, 0, 2)).reshape((8, 12)), VALUE), 1)
WEIGHTS = {
    "alone": VALUE,
    "turned": VALUE.transpose((1, 0)),
    "heads first": QUERY.transpose((1, 0, 2)).reshape((8, 12)),
    "padded heads": QUERY.transpose((1, 0, 2)).pad(((0, 0), (0, 0), (0, 2))).reshape((8, 18)),
    "packed": PACKED,
    "packed and turned": PACKED.transpose((1, 0)),
    "shifted": VALUE.plus(1.0),
    "packed with itself": concatenate((VALUE, VALUE), 0),
    "narrow": PACKED.cast("float16"),
    "narrower": PACKED.cast("bfloat16"),
}


class Numbers:
    """Random parameters and updates."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        self.arrays: dict[str, Any] = {p.name: random.standard_normal(p.shape).astype(np.float32) for p in (QUERY, VALUE)}
        self.factors: dict[str, Any] = {}
        for name, (a, b) in {"query": ((3, 8, 2), (2, 4)), "value": ((8, 2), (2, 5))}.items():
            self.factors |= {f"{name}.a": random.standard_normal(a).astype(np.float32), f"{name}.b": random.standard_normal(b).astype(np.float32)}

    def read(self, name: str) -> Any:
        return self.arrays[name]

    def updates(self) -> dict[str, LowRank]:
        return {name: LowRank(lambda name=name: self.factors[f"{name}.a"], lambda name=name: self.factors[f"{name}.b"], 0.5) for name in self.arrays}


def test_a_parameter_is_read_with_its_update() -> None:
    """Kernel plus scale times a times b; a parameter without an update is handed on."""
    numbers = Numbers()
    weights = UpdatedWeights(numbers, {"value": numbers.updates()["value"]})
    expected = numbers.arrays["value"] + np.float32(0.5) * (numbers.factors["value.a"] @ numbers.factors["value.b"])
    assert np.array_equal(weights.read("value"), expected) and weights.read("query") is numbers.arrays["query"]


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_stored_tensor_is_changed_as_its_parameters_are(name: str) -> None:
    """Adding an update to what is stored equals storing the sum; for narrow tensors, storing the sum of the rounded base."""
    numbers, weight = Numbers(), WEIGHTS[name]
    parts = tuple(AdapterPart(a=f"{p.name}.a", b=f"{p.name}.b", scale=0.5, steps=steps) for p, steps in placements(weight))
    tensor = AdapterTensor(file="m", name="t", dtype=weight.dtype, shape=weight.shape, data="d", offset=0, parts=parts)
    stored = weight.materialize(numbers)
    bits = np.dtype(np.uint16) if weight.dtype == "bfloat16" else stored.dtype
    changed = _changed(tensor, stored.view(bits), numbers.factors).view(stored.dtype)
    assert np.allclose(changed.astype(np.float32), expected_sum(weight, numbers), rtol=0, atol=1e-6)


def expected_sum(weight: Weight, numbers: Numbers) -> Any:
    """The sum as `weight` stores it, over parameters rounded to the stored dtype."""
    dtype = weight.dtype
    rounded = Numbers()
    rounded.arrays = {name: array.astype(np.dtype(dtype)).astype(np.float32) for name, array in numbers.arrays.items()}
    return weight.materialize(UpdatedWeights(rounded, numbers.updates())).astype(np.float32)
