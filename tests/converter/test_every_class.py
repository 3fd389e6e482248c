"""KerasHub's own lists of generative classes and of backbones: each is proven by tests, or refused by name with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kexport.converter.backbone_refusals import BACKBONE_REFUSALS
from kexport.converter.families import FAMILIES
from kexport.converter.refusals import REFUSALS
from kexport.converter.sources.base import Options, choose_task
from kexport.runtime.contract.errors import UnsupportedError

from tests.zoo.encoders import BACKBONES

BASES = {"CausalLM", "Seq2SeqLM", "AudioToText"}
PROVEN = {name for family in FAMILIES for name in family.classes}


def subclasses(cls: type) -> Iterator[type]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


@pytest.mark.slow
def test_no_class_is_forgotten() -> None:
    """A class that is new in KerasHub fails here until somebody proves it or says why it stays out; one that is gone must go here, too."""
    from kexport.converter.keras_env import import_keras_hub

    models = import_keras_hub().models
    found = {cls.__name__ for cls in subclasses(models.CausalLM) if cls.__module__.startswith("keras_hub.") and cls.__name__ not in BASES}
    assert found == PROVEN | set(REFUSALS)


def proven_backbones() -> set[str]:
    """The classes of the backbones that tests compare with their originals: alone, or with the head of a family that is proven."""
    from tests.graphs.capture.test_forward import encoders

    alone = {encoder.cls for encoder in BACKBONES.values()} | {type(backbone).__name__ for backbone in encoders().values()}
    return alone | {f"{name.removesuffix('CausalLM').removesuffix('Seq2SeqLM')}Backbone" for name in PROVEN}


@pytest.mark.slow
def test_no_backbone_is_forgotten() -> None:
    """The same of the backbones that KerasHub makes public, whatever they take."""
    from kexport.converter.keras_env import import_keras_hub

    models = import_keras_hub().models
    public = [value for value in vars(models).values() if isinstance(value, type) and issubclass(value, models.Backbone)]
    assert {cls.__name__ for cls in public} - {"Backbone"} == proven_backbones() | set(BACKBONE_REFUSALS)
    assert not proven_backbones() & set(BACKBONE_REFUSALS)


def test_nothing_is_proven_and_refused() -> None:
    """A class is one or the other."""
    assert not PROVEN & set(REFUSALS)


@pytest.mark.parametrize("class_name", sorted(BACKBONE_REFUSALS))
def test_the_refusal_of_a_backbone_says_why(class_name: str) -> None:
    """Told of the class's name alone, whether the source is the backbone's own or its task was asked for."""
    for task in (None, "backbone"):
        with pytest.raises(UnsupportedError) as caught:
            choose_task(Options(task=task), "PRESET", class_name, "backbone")
        assert caught.value.code == "KX417" and BACKBONE_REFUSALS[class_name].what in caught.value.message and caught.value.hint


@pytest.mark.parametrize("class_name", sorted(REFUSALS))
def test_a_refusal_says_why_and_what_fits(class_name: str) -> None:
    """Told of the class's name alone, before any file is read; its backbone may still be asked for."""
    options: Any = SimpleNamespace(task=None)
    with pytest.raises(UnsupportedError) as caught:
        choose_task(options, "PRESET", class_name, "causal-lm")
    assert caught.value.code == "KX417" and class_name in caught.value.message and REFUSALS[class_name].what in caught.value.message and caught.value.hint
    assert choose_task(Options(task="backbone"), "PRESET", class_name, "causal-lm") == "backbone"


@pytest.mark.slow
def test_a_live_object_is_refused_by_its_ancestor() -> None:
    """Whatever the user calls the subclass."""
    from kexport.converter.keras_env import import_keras_hub
    from kexport.converter.sources.live import _refused_ancestor

    cls = type("Mine", (import_keras_hub().models.PARSeqCausalLM,), {})
    assert _refused_ancestor(cls.__new__(cls)) == "PARSeqCausalLM"
