"""Families that are not captured, by task class, each with its reason: told before anything is tried."""

from __future__ import annotations

from typing import Any

from kexport.runtime.contract.errors import UnsupportedError

REASONS = {
    "PaliGemmaCausalLM": "every prompt begins with an image, and its tokens see each other in both directions",
    "BLIP2CausalLM": "a prompt continues what a querying transformer makes of an image, behind learned positions",
    "BLIP2Seq2SeqLM": "its encoder reads what a querying transformer makes of an image",
    "MoonshineAudioToText": "its encoder reads sound, through convolutions over time",
    "PARSeqCausalLM": "its decoder reads an image and keeps two streams of caches",
}
HINT = "see `kexport list` for the families that convert"


def refuse_if_listed(task: Any) -> None:
    """Raise UnsupportedError (KX385) for a task of a class, or of a subclass of one, that is listed."""
    name = next((cls.__name__ for cls in type(task).__mro__ if cls.__name__ in REASONS), None)
    if name is not None:
        raise UnsupportedError("KX385", f"{name} is not captured: {REASONS[name]}", hint=HINT)
