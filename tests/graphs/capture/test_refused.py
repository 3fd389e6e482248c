"""Families that are not captured say why, before anything is tried."""

from __future__ import annotations

import pytest
from kexport.runtime.contract.errors import UnsupportedError

pytestmark = pytest.mark.slow


def test_listed_families_are_refused_with_their_reason() -> None:
    """Each listed class is KerasHub's, and a task of it, or of a subclass, ends in KX385 with the reason; others pass."""
    import keras_hub
    from kexport.graphs.capture import capture
    from kexport.graphs.capture.refused import REASONS, refuse_if_listed

    for name, reason in REASONS.items():
        stock = getattr(keras_hub.models, name)
        mine = type("Mine", (stock,), {})
        for cls in (stock, mine):
            with pytest.raises(UnsupportedError) as error:
                capture(object.__new__(cls))
            assert error.value.code == "KX385" and name in error.value.message and reason in error.value.message
    refuse_if_listed(object.__new__(keras_hub.models.Gemma3CausalLM))
