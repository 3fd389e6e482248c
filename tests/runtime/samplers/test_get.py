"""`samplers.get` takes what KerasHub takes, and refuses what cannot leave Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kexport.runtime import samplers
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import Rng
from kexport.runtime.samplers.base import Draw


def keras_hub_object(class_name: str, config: dict[str, Any], module: str = "keras_hub.src.samplers.some_sampler") -> Any:
    """An object as KerasHub's look from outside."""
    kind = type(class_name, (), {"get_config": lambda self: dict(config), "__module__": module})
    return kind()


@pytest.mark.parametrize("name", ["greedy", "random", "top_k", "top_p", "beam"])
def test_names_and_configs(name: str) -> None:
    """A name gives KerasHub's defaults, and a sampler's config gives the sampler again, in all forms of class name."""
    sampler = samplers.get(name)
    config = sampler.get_config()
    assert config["temperature"] == 1.0
    class_name = type(sampler).__name__
    for form in (class_name, f"keras_hub>{class_name}", name):
        again = samplers.get({"class_name": form, "config": config})
        assert type(again) is type(sampler)
        assert again.get_config() == config
    assert samplers.get(sampler) is sampler
    assert type(samplers.get(keras_hub_object(class_name, config))) is type(sampler)


def test_defaults_are_keras_hubs() -> None:
    """k = 5, p = 0.1 without k, no seed."""
    assert samplers.get("top_k").get_config() == {"temperature": 1.0, "seed": None, "k": 5}
    assert samplers.get("top_p").get_config() == {"temperature": 1.0, "seed": None, "p": 0.1, "k": None}
    assert samplers.RandomSampler(7).get_config()["seed"] == 7
    assert samplers.TopKSampler(3, 7).get_config() == {"temperature": 1.0, "seed": 7, "k": 3}


@pytest.mark.parametrize(
    "identifier", ["nucleus", "Greedy", "", 7, None, {"config": {}}, {"class_name": 3}, {"class_name": "TopKSampler", "config": 1}]
)
def test_not_a_sampler(identifier: Any) -> None:
    """What names no sampler is refused with the names that exist."""
    with pytest.raises(InvalidInputError, match="KX530"):
        samplers.get(identifier)


@pytest.mark.parametrize(
    "identifier",
    [
        "speculative",
        {"class_name": "keras_hub>SpeculativeSampler", "config": {}},
        {"class_name": "mine>TopKSampler", "config": {}},
        {"class_name": "MySampler", "config": {}},
        keras_hub_object("MySampler", {}),
        keras_hub_object("GreedySampler", {}, module="my_project.samplers"),
    ],
)
def test_not_supported(identifier: Any) -> None:
    """Samplers that are not built and classes of somebody's own, one of a known name included, are refused by name."""
    with pytest.raises(UnsupportedError, match="KX531"):
        samplers.get(identifier)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("TopKSampler", {"k": 0}),
        ("TopKSampler", {"k": 2.5}),
        ("TopKSampler", {"surprise": 1}),
        ("TopPSampler", {"p": -0.1}),
        ("TopPSampler", {"p": float("nan")}),
        ("TopPSampler", {"k": 0}),
        ("GreedySampler", {"temperature": 0}),
        ("GreedySampler", {"temperature": -1.0}),
        ("TopKSampler", {"temperature": -0.5}),
        ("BeamSampler", {"temperature": "hot"}),
        ("RandomSampler", {"temperature": float("nan")}),
        ("RandomSampler", {"temperature": None}),
        ("GreedySampler", {"temperature": float("inf")}),
        ("RandomSampler", {"seed": 1.5}),
        ("RandomSampler", {"seed": 2**63}),
        ("BeamSampler", {"num_beams": 0}),
    ],
)
def test_arguments_that_do_not_fit(name: str, config: dict[str, Any]) -> None:
    """Each is refused when the sampler is made, not when it draws."""
    with pytest.raises(InvalidInputError, match="KX532"):
        samplers.get({"class_name": name, "config": config})


def test_k_beyond_the_vocabulary() -> None:
    """More candidates than tokens is an error that names both, as KerasHub refuses it."""
    sampler = samplers.TopKSampler(k=9)
    with pytest.raises(InvalidInputError, match=r"9.*8"):
        sampler.next_token(sampler.probabilities(np.zeros((1, 8), np.float32))[0], Draw(0, 0, 1, Rng()))


def test_logits_that_are_not_numbers() -> None:
    """NaN from a model is said, not sampled."""
    with pytest.raises(InvalidInputError, match="KX533"):
        samplers.get("greedy").probabilities(np.array([[0.0, np.nan]], np.float32))


def test_greedy_ties_go_to_the_smaller_id() -> None:
    """Also where the logits differ by less than the softmax can tell."""
    sampler = samplers.get("greedy")
    close = np.array([[5e-4, np.nextafter(np.float32(5e-4), np.float32(1)), 1e-4]], np.float32)
    assert sampler.next_token(sampler.probabilities(close)[0], Draw(0, 0, 1, Rng())) == 0
    assert int(close[0].argmax()) == 1


def test_unseeded_samplers_differ() -> None:
    """Without a seed two samplers draw differently; with one they draw alike."""
    probabilities = np.full(50_000, 1 / 50_000, np.float32)

    def draws(seed: int | None) -> list[int]:
        sampler = samplers.RandomSampler(seed)
        return [sampler.next_token(probabilities, Draw(step, 0, 1, Rng())) for step in range(8)]

    assert draws(None) != draws(None)
    assert draws(3) == draws(3) != draws(4)


def test_all_beams_are_refused() -> None:
    """KerasHub's generate() fails with them; ours says so."""
    with pytest.raises(UnsupportedError, match="KX534"):
        samplers.BeamSampler(return_all_beams=True)
