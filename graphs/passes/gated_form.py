"""Which gated activation a piece of a graph computes, found by running it on numbers and comparing with the formula of the op `experts`.

    split, silu, mul                     gate and values are the halves of one product
    gather, min, max, sigmoid, mul, ...  gpt-oss: they alternate, are held within limits, and the values are shifted
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from kexport.graphs.dims import Dim
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.graphs.ops.experts import ACTIVATIONS, gated
from numpy.typing import NDArray

TOKENS = 3
COLUMNS = 48  # of one expert, to choose a candidate by; the chosen one is compared in full
SPREADS = (1.0, 4.0, 40.0)  # a row of small numbers, where activations differ most, and rows that reach every limit
TOLERANCE = 1e-5
TUNED = "silu"  # the activation that has an alpha


@dataclass(frozen=True, slots=True)
class Part:
    """Columns `start`, `start + step`, ... below `stop` of the input value `of`."""

    of: str
    start: int
    stop: int
    step: int

    def of_array(self, array: NDArray[Any]) -> NDArray[Any]:
        """These columns of an array."""
        return array[..., self.start : self.stop : self.step]


@dataclass(frozen=True, slots=True)
class GatedForm:
    """Where the gate and the values stand in the inputs, and the attributes of the op `experts`."""

    gate: Part
    up: Part
    attributes: dict[str, Any]


def gated_form(piece: Graph, value: str) -> GatedForm | None:
    """The form in which `piece`, whose inputs are products [experts, tokens, columns], computes `value`; None where it is no such formula."""
    feeds, bindings = _numbers(piece)
    with np.errstate(over="ignore"):
        expected = run(piece, feeds, None, None, **bindings)[value]
        width = expected.shape[-1]
        for gate, up in _places({name: array.shape[-1] for name, array in feeds.items()}, width):
            small = [part.of_array(feeds[part.of])[0, :, :COLUMNS] for part in (gate, up)]
            for attributes in _candidates(_scalars(piece)):
                if _equal(gated(small[0], small[1], **attributes), expected[0, :, :COLUMNS]):
                    whole = [part.of_array(feeds[part.of]) for part in (gate, up)]
                    return GatedForm(gate, up, attributes) if _equal(gated(whole[0], whole[1], **attributes), expected) else None
    return None


def _numbers(piece: Graph) -> tuple[dict[str, NDArray[np.float32]], dict[str, int]]:
    """Random products of a few tokens, and the sizes of the dims that their number is the product of."""
    generator, feeds = np.random.default_rng(0), {}
    bindings: dict[str, int] = {}
    for name, type_ in piece.inputs.items():
        experts, tokens, columns = type_.shape
        bindings |= _sizes(tokens)
        spread = np.array(SPREADS, np.float32)[:, None]
        feeds[name] = spread * generator.standard_normal((int(experts), TOKENS, int(columns))).astype(np.float32)
    return feeds, bindings


def _sizes(tokens: Dim) -> dict[str, int]:
    names = [part for part in str(tokens).split("*") if not part.isdigit()]
    return {name: TOKENS if index == 0 else 1 for index, name in enumerate(names)}


def _places(columns: dict[str, int], width: int) -> Iterator[tuple[Part, Part]]:
    """Where gate and values of `width` columns may stand: in an input each, as halves of one, or alternating."""
    if len(columns) == 2 and set(columns.values()) == {width}:
        parts = [Part(name, 0, width, 1) for name in columns]
        yield from itertools.permutations(parts, 2)
    elif len(columns) == 1 and set(columns.values()) == {2 * width}:
        (name,) = columns
        halves = (Part(name, 0, width, 1), Part(name, width, 2 * width, 1))
        alternating = (Part(name, 0, 2 * width, 2), Part(name, 1, 2 * width, 2))
        for first, second in (halves, alternating):
            yield first, second
            yield second, first


def _scalars(piece: Graph) -> list[float]:
    """The scalars the piece computes with, in the shortest form that is the same number."""
    read = {name for node in piece.nodes for name in node.inputs}
    found = {abs(float(str(array.reshape(-1)[0]))) for name, array in piece.constants.items() if name in read and array.size == 1 and array.dtype.kind == "f"}
    return sorted(found)


def _candidates(scalars: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Attributes to try, the plainest first."""
    for limit, offset, alpha, activation in itertools.product((None, *scalars), (0.0, *scalars), (1.0, *scalars), ACTIVATIONS):
        if alpha == 1 or activation == TUNED:
            yield {"activation": activation, "alpha": alpha, "limit": limit, "offset": offset}


def _equal(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.shape == right.shape and np.allclose(left, right, rtol=TOLERANCE, atol=TOLERANCE)
