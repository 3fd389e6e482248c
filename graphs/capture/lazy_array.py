"""An array whose bytes are read when asked for: what a recorded loader handles in place of the checkpoint's arrays.

It knows shape and dtype, and answers the numpy functions that loaders and converters use on weights (transpose, reshape, stack,
concatenate, slicing, arithmetic, bits, masks) with another lazy array. A loader that insists on real numbers (`np.asarray`) gets them.

How many numbers a mask selects is known only once it is read: such a lazy array is `open`, its shape is not to be relied on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from kexport.runtime.contract.errors import InternalError, InvalidInputError
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

Array = NDArray[Any]


class LazyArray(NDArrayOperatorsMixin):
    """`read()` gives the array; it may be a view of a mapped file. `origin` names the file and tensor, for messages."""

    def __init__(self, shape: Sequence[int], dtype: Any, read: Callable[[], Array], origin: str, *, is_open: bool = False) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.origin = origin
        self.is_open = is_open
        self._read = read

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Count of numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes once read."""
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> LazyArray:  # noqa: N802  (numpy's name)
        """Axes reversed."""
        return self.transpose()

    def materialize(self) -> Array:
        """Read the bytes.

        Raises:
            InternalError: what was read is not what was promised.
        """
        array = self._read()
        if (tuple(array.shape) != self.shape and not self.is_open) or array.dtype != self.dtype:
            raise InternalError("KX902", f"{self.origin}: promised {self.shape} {self.dtype}, got {array.shape} {array.dtype}")
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = np.asarray(self.materialize())
        return array if dtype is None else array.astype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<LazyArray {self.shape} {self.dtype} of {self.origin}>"

    # ---- deferred operations

    def deferred(self, function: Callable[..., Any], *others: LazyArray) -> LazyArray:
        """`function(self, *others)` later; the result's shape is found now, on arrays that occupy no memory."""
        operands = (self, *others)
        result = function(*[operand._placeholder() for operand in operands])
        is_open = any(operand.is_open for operand in operands)
        return LazyArray(result.shape, result.dtype, lambda: function(*[operand.materialize() for operand in operands]), self.origin, is_open=is_open)

    def _placeholder(self) -> Array:
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    def transpose(self, *axes: Any) -> LazyArray:
        """As numpy's."""
        if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], tuple | list)):
            axes = tuple(axes[0] or ())
        order = tuple(axes) or tuple(range(self.ndim))[::-1]
        return LazyArray([self.shape[axis] for axis in order], self.dtype, lambda: self.materialize().transpose(order), self.origin)

    def reshape(self, *shape: Any, order: str = "C") -> LazyArray:
        """As numpy's, C order."""
        sizes = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else list(shape)
        if -1 in sizes:
            sizes[sizes.index(-1)] = self.size // -math.prod(sizes)
        if math.prod(sizes) != self.size:
            raise InvalidInputError("KX423", f"{self.origin}: cannot reshape {self.shape} to {tuple(sizes)}", hint="the checkpoint does not fit the config")
        return LazyArray(sizes, self.dtype, lambda: self.materialize().reshape(sizes), self.origin)

    def astype(self, dtype: Any, **_: Any) -> LazyArray:
        """As numpy's."""
        wanted = np.dtype(dtype)
        return self if wanted == self.dtype else self.deferred(lambda array: array.astype(wanted))

    def __getitem__(self, index: Any) -> LazyArray:
        if isinstance(index, LazyArray):  # a mask, or numbers of places
            selected = self.deferred(lambda array, chosen: array[chosen], index)
            selected.is_open |= index.dtype == np.bool_
            return selected
        return self.deferred(lambda array: array[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        """Later readers of this array see the assignment; the checkpoint's own bytes stay as they are."""
        before = self._read

        def read() -> Array:
            array = np.array(before())
            array[_real(index)] = _real(value)
            return array

        self._read = read

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in (np.stack, np.concatenate):
            axis = kwargs.get("axis", args[1] if len(args) > 1 else 0)
            return _joined(function, list(args[0]), int(axis))
        if function is np.transpose:
            return args[0].transpose(kwargs.get("axes", args[1] if len(args) > 1 else None))
        if function is np.reshape:
            return args[0].reshape(args[1] if len(args) > 1 else kwargs.get("shape", kwargs.get("newshape")))
        return _applied(function, args, kwargs)

    def __array_ufunc__(self, function: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return NotImplemented if method != "__call__" or kwargs.get("out") else _applied(function, args, kwargs)


def _real(value: Any) -> Any:
    return value.materialize() if isinstance(value, LazyArray) else value


def _applied(function: Any, args: Any, kwargs: Any) -> LazyArray:
    """Any other numpy function of lazy arrays, deferred as a whole."""
    lazies = [arg for arg in args if isinstance(arg, LazyArray)]

    def run(*arrays: Array) -> Any:
        remaining = iter(arrays)
        return function(*[next(remaining) if isinstance(arg, LazyArray) else arg for arg in args], **kwargs)

    return lazies[0].deferred(run, *lazies[1:])


def _joined(function: Any, parts: list[Any], axis: int) -> LazyArray:
    """stack or concatenate, assembled one operand at a time: the peak is the result plus one operand."""
    dtype = np.result_type(*[part.dtype for part in parts])
    shape = list(parts[0].shape)
    stacking = function is np.stack
    axis %= len(shape) + stacking
    if stacking:
        shape.insert(axis, len(parts))
    else:
        shape[axis] = sum(part.shape[axis] for part in parts)

    def read() -> Array:
        result = np.empty(shape, dtype)
        start = 0
        for part in parts:
            stop = start + (1 if stacking else part.shape[axis])
            index: Any = start if stacking else slice(start, stop)
            result[(slice(None),) * axis + (index,)] = _real(part)
            start = stop
        return result

    return LazyArray(shape, dtype, read, getattr(parts[0], "origin", "joined arrays"))
