"""Stable names of parameters."""

from __future__ import annotations

import keras


def parameter_name(variable: keras.Variable) -> str:
    """A variable's stable name: its path, `/` written as `.`."""
    return str(variable.path).replace("/", ".")
