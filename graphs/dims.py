"""Symbolic sizes: a dim is a fixed `int`, a name (`batch`), how many pieces of a size hold a name (`sequence/64`, rounded up), or a product of those,
written `2*batch*sequence`.

Products are all that reshapes of text models need; anything else is refused where it arises instead of being guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from kexport.runtime.contract.errors import InternalError

Dim = int | str
Shape = tuple[Dim, ...]

BATCH = "batch"
SEQUENCE = "sequence"
TOTAL = "total"
ENCODER_SEQUENCE = "encoder_sequence"


def _parts(dim: Dim) -> tuple[int, list[str]]:
    if isinstance(dim, int):
        return dim, []
    factor, names = 1, []
    for part in dim.split("*"):
        if part.isdigit():
            factor *= int(part)
        else:
            names.append(part)
    return factor, sorted(names)


def _join(factor: int, names: list[str]) -> Dim:
    if not names or factor == 0:
        return factor
    return "*".join(([str(factor)] if factor != 1 else []) + sorted(names))


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all `dims` in canonical form; 1 for none."""
    factor, names = 1, []
    for dim in dims:
        its_factor, its_names = _parts(dim)
        factor *= its_factor
        names += its_names
    return _join(factor, names)


def quotient(dim: Dim, by: Dim) -> Dim | None:
    """`dim / by` where that is exact for every binding of the names, else None."""
    factor, names = _parts(dim)
    by_factor, by_names = _parts(by)
    for name in by_names:
        if name not in names:
            return None
        names.remove(name)
    if by_factor == 0 or factor % by_factor:
        return None
    return _join(factor // by_factor, names)


def pieces(dim: Dim, size: int) -> Dim:
    """How many pieces of `size` hold `dim`: `dim / size`, rounded up.

    Raises:
        InternalError: `dim` is neither a number nor one name.
    """
    if isinstance(dim, int):
        return -(-dim // size)
    if "*" in dim or "/" in dim:
        raise InternalError("KX901", f"dim `{dim}` cannot be cut into pieces, it is more than one name")
    return f"{dim}/{size}"


def in_pieces(name: str) -> tuple[str, int] | None:
    """The name and the size of the pieces where `name` was made by `pieces`, else None; a product was not."""
    whole, _, size = name.partition("/")
    return (whole, int(size)) if size and "*" not in name else None


def names_in(dim: Dim) -> list[str]:
    """The names that an input must carry so that `dim` has a size."""
    return [name.partition("/")[0] for name in _parts(dim)[1]]


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """The size of `dim` under `bindings` (name -> size).

    Raises:
        InternalError: a name is not bound.
    """
    factor, names = _parts(dim)
    unbound = [name for name in names_in(dim) if name not in bindings]
    if unbound:
        raise InternalError("KX901", f"dim `{dim}` has no size: {', '.join(unbound)} not bound")
    return factor * math.prod(_size(name, bindings) for name in names)


def _size(name: str, bindings: Mapping[str, int]) -> int:
    cut = in_pieces(name)
    return bindings[name] if cut is None else -(-bindings[cut[0]] // cut[1])


def broadcast(left: Shape, right: Shape) -> Shape | None:
    """The shape of an elementwise result, numpy's rule; None where the dims cannot be shown to agree."""
    rank = max(len(left), len(right))
    padded_left = (1,) * (rank - len(left)) + left
    padded_right = (1,) * (rank - len(right)) + right
    result: list[Dim] = []
    for a, b in zip(padded_left, padded_right, strict=True):
        if b in (a, 1):
            result.append(a)
        elif a == 1:
            result.append(b)
        else:
            return None
    return tuple(result)
