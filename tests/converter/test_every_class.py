"""KerasHub's own list of generative classes: each is proven by tests, or refused by name with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kexport.converter.families import FAMILIES
from kexport.converter.refusals import REFUSALS
from kexport.converter.sources.base import Options, choose_task
from kexport.runtime.contract.errors import UnsupportedError

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


def test_nothing_is_proven_and_refused() -> None:
    assert not PROVEN & set(REFUSALS)


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
