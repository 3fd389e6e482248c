"""Weights as references: what the graph holds for a parameter. No bytes live here.

A `Weight` is a small immutable expression: a named parameter of the original (`Parameter`) under layout transforms. Its shape and dtype
are known at once and checked at once; bytes are read only by `materialize(source)`, by a writer, one weight at a time. Equality and
hashing go by name and transforms, so a tied embedding is one weight and two captures can be compared without reading anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from kexport.runtime.contract.dtypes import item_size, numpy_dtype
from kexport.runtime.contract.errors import InternalError
from numpy.typing import NDArray

Array = NDArray[Any]


class WeightSource(Protocol):
    """Where parameter bytes come from: a live Keras object, a preset's files, random numbers in a test."""

    def read(self, name: str) -> Array:
        """The bytes of parameter `name` in its own shape and dtype; may be a mapped view that the caller must not keep.

        Raises:
            InvalidInputError: the source has no such parameter, or its shape differs.
        """
        ...


@dataclass(frozen=True, slots=True)
class Weight:
    """The base of all weight expressions. Use the methods; they return new expressions."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size in bytes once materialized."""
        return math.prod(self.shape) * item_size(self.dtype)

    @property
    def label(self) -> str:
        """A stable, readable name for files and messages."""
        raise NotImplementedError

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter this expression reads, in order."""
        raise NotImplementedError

    def materialize(self, source: WeightSource) -> Array:
        """Read and transform. Returns an array of `shape` and `dtype`; it may be a view of a mapped file."""
        array = self._read(source)
        if array.shape != self.shape or array.dtype != numpy_dtype(self.dtype):
            raise InternalError("KX902", f"weight {self.label}: promised {self.shape} {self.dtype}, got {array.shape} {array.dtype}")
        return array

    def _read(self, source: WeightSource) -> Array:
        raise NotImplementedError

    def stacked(self) -> tuple[Weight, ...]:
        """The weights that stand one behind the other along the first axis, each as it would be written alone; the weight itself where it is one piece."""
        return (self,)

    def transpose(self, permutation: tuple[int, ...]) -> Weight:
        """Axes in a new order; the identity returns the weight itself, and a transpose of a transpose is one."""
        if permutation == tuple(range(len(self.shape))):
            return self
        if isinstance(self, Transposed):
            return self.of.transpose(tuple(self.permutation[axis] for axis in permutation))
        return Transposed(tuple(self.shape[axis] for axis in permutation), self.dtype, self, permutation)

    def reshape(self, shape: tuple[int, ...]) -> Weight:
        """The same numbers in another shape of equal size."""
        if shape == self.shape:
            return self
        if math.prod(shape) != math.prod(self.shape):
            raise InternalError("KX902", f"weight {self.label}: cannot reshape {self.shape} to {shape}")
        inner = self.of if isinstance(self, Reshaped) else self
        return inner if inner.shape == shape else Reshaped(shape, self.dtype, inner)

    def cast(self, dtype: str) -> Weight:
        """The same numbers in another dtype."""
        return self if dtype == self.dtype else Casted(self.shape, dtype, self)

    def plus(self, offset: float) -> Weight:
        """Every number plus `offset`, computed in the weight's dtype."""
        return self if offset == 0 else Shifted(self.shape, self.dtype, self, float(offset))

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> Weight:
        """Places `start`, `start + step`, ... below `stop` of one axis; of a mapped parameter this is a view."""
        if (start, stop, step) == (0, self.shape[axis], 1):
            return self
        if not 0 <= axis < len(self.shape) or not 0 <= start < stop <= self.shape[axis] or step < 1:
            raise InternalError("KX902", f"weight {self.label}: axis {axis} of {self.shape} has no places {start}:{stop}:{step}")
        shape = (*self.shape[:axis], len(range(start, stop, step)), *self.shape[axis + 1 :])
        return Sliced(shape, self.dtype, self, axis, start, stop, step)

    def pad(self, before_after: tuple[tuple[int, int], ...]) -> Weight:
        """Zeros added before and after each axis."""
        if not any(before or after for before, after in before_after):
            return self
        shape = tuple(size + before + after for size, (before, after) in zip(self.shape, before_after, strict=True))
        return Padded(shape, self.dtype, self, before_after)


@dataclass(frozen=True, slots=True)
class Parameter(Weight):
    """A parameter of the original, by its stable name (the Keras variable's path, `/` written as `.`)."""

    name: str

    @property
    def label(self) -> str:
        return self.name

    def parameters(self) -> Iterator[Parameter]:
        yield self

    def _read(self, source: WeightSource) -> Array:
        return source.read(self.name)


@dataclass(frozen=True, slots=True)
class Transformed(Weight):
    """One transform of one weight."""

    of: Weight

    def parameters(self) -> Iterator[Parameter]:
        return self.of.parameters()


@dataclass(frozen=True, slots=True)
class Transposed(Transformed):
    permutation: tuple[int, ...]

    @property
    def label(self) -> str:
        return f"{self.of.label}.t{''.join(map(str, self.permutation))}"

    def stacked(self) -> tuple[Weight, ...]:
        if not isinstance(self.of, Concatenated) or self.permutation[0] != self.of.axis:
            return (self,)
        return tuple(part.transpose(self.permutation) for part in self.of.parts)

    def _read(self, source: WeightSource) -> Array:
        return self.of.materialize(source).transpose(self.permutation)


@dataclass(frozen=True, slots=True)
class Reshaped(Transformed):
    @property
    def label(self) -> str:
        return f"{self.of.label}.{'x'.join(map(str, self.shape))}"

    def _read(self, source: WeightSource) -> Array:
        return self.of.materialize(source).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Casted(Transformed):
    @property
    def label(self) -> str:
        return f"{self.of.label}.{self.dtype}"

    def stacked(self) -> tuple[Weight, ...]:
        return tuple(part.cast(self.dtype) for part in self.of.stacked())

    def _read(self, source: WeightSource) -> Array:
        return self.of.materialize(source).astype(numpy_dtype(self.dtype))


@dataclass(frozen=True, slots=True)
class Shifted(Transformed):
    offset: float

    @property
    def label(self) -> str:
        return f"{self.of.label}.plus{self.offset:g}"

    def _read(self, source: WeightSource) -> Array:
        values = self.of.materialize(source)
        return np.asarray(values + values.dtype.type(self.offset))


@dataclass(frozen=True, slots=True)
class Sliced(Transformed):
    axis: int
    start: int
    stop: int
    step: int

    @property
    def label(self) -> str:
        return f"{self.of.label}.axis{self.axis}_{self.start}-{self.stop}" + (f"_{self.step}" if self.step != 1 else "")

    def _read(self, source: WeightSource) -> Array:
        return self.of.materialize(source)[(slice(None),) * self.axis + (slice(self.start, self.stop, self.step),)]


@dataclass(frozen=True, slots=True)
class Padded(Transformed):
    before_after: tuple[tuple[int, int], ...]

    @property
    def label(self) -> str:
        return f"{self.of.label}.pad{'_'.join(f'{a}-{b}' for a, b in self.before_after)}"

    def _read(self, source: WeightSource) -> Array:
        return np.pad(self.of.materialize(source), self.before_after)


@dataclass(frozen=True, slots=True)
class Concatenated(Weight):
    """Several weights along one axis, assembled one operand at a time: the peak is the result plus one operand."""

    parts: tuple[Weight, ...]
    axis: int

    @property
    def label(self) -> str:
        return "+".join(part.label for part in self.parts)

    def parameters(self) -> Iterator[Parameter]:
        for part in self.parts:
            yield from part.parameters()

    def stacked(self) -> tuple[Weight, ...]:
        return self.parts if self.axis == 0 else (self,)

    def _read(self, source: WeightSource) -> Array:
        result = np.empty(self.shape, numpy_dtype(self.dtype))
        start = 0
        for part in self.parts:
            stop = start + part.shape[self.axis]
            result[(slice(None),) * self.axis + (slice(start, stop),)] = part.materialize(source)
            start = stop
        return result


def concatenate(parts: tuple[Weight, ...], axis: int) -> Weight:
    """`parts` joined along `axis`; all other sizes and the dtypes must be equal.

    Raises:
        InternalError: shapes or dtypes differ.
    """
    first = parts[0]
    for part in parts:
        same = part.dtype == first.dtype and len(part.shape) == len(first.shape)
        if not same or any(a != b for i, (a, b) in enumerate(zip(part.shape, first.shape, strict=True)) if i != axis):
            raise InternalError("KX902", f"cannot join weights {first.label} {first.shape} and {part.label} {part.shape} on axis {axis}")
    shape = tuple(sum(p.shape[axis] for p in parts) if i == axis else size for i, size in enumerate(first.shape))
    return Concatenated(shape, first.dtype, parts, axis)
