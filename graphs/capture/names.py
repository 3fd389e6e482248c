"""Stable names of parameters."""

from __future__ import annotations

from collections.abc import Iterable

import keras

REPEATED = "{}~{}"  # `o_proj.kernel~2`: some models give the same name to layers of every block


def parameter_name(variable: keras.Variable) -> str:
    """A variable's path, `/` written as `.`; see `ParameterNames` for models in which paths repeat."""
    return str(variable.path).replace("/", ".")


class ParameterNames:
    """The names of a model's variables, each its own: where paths repeat, the second and later ones are numbered in the model's order.

    That order is the same for a live object and for an abstract build of the same config.
    """

    def __init__(self, variables: Iterable[keras.Variable]) -> None:
        self._names: dict[int, str] = {}
        counts: dict[str, int] = {}
        for variable in variables:
            if id(variable) in self._names:
                continue
            name = parameter_name(variable)
            counts[name] = counts.get(name, 0) + 1
            self._names[id(variable)] = name if counts[name] == 1 else REPEATED.format(name, counts[name])

    def of(self, variable: keras.Variable) -> str:
        """The name of one of them; of another variable its path."""
        return self._names.get(id(variable), parameter_name(variable))
