"""StridedSlice, Slice, GatherV2: indexing with fixed bounds; on sizes it stays symbolic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from kexport.graphs.capture.importing.importer import CacheValue, Constant, Importer, Sizes, WeightValue, graph_dtype, imports
from kexport.graphs.capture.importing.layout import packed_parts, reshape_value
from kexport.graphs.dims import Dim, Shape

ALL_THE_REST = -1


def _bit(op: tf.Operation, mask: str, index: int) -> bool:
    return bool(op.get_attr(mask) >> index & 1)


def _selectors(importer: Importer, op: tf.Operation, rank: int) -> Iterator[slice | int | None]:
    """One entry per axis of the result as numpy would write it: a slice, an index (axis dropped), None (axis added)."""
    begin, step = (importer.needed_constant(op, index) for index in (1, 3))
    end = importer.needed_sizes(op, 2)
    count = len(begin)
    consuming = sum(1 for i in range(count) if not _bit(op, "new_axis_mask", i) and not _bit(op, "ellipsis_mask", i))
    for i in range(count):
        if _bit(op, "ellipsis_mask", i):
            yield from (slice(None) for _ in range(rank - consuming))
        elif _bit(op, "new_axis_mask", i):
            yield None
        elif _bit(op, "shrink_axis_mask", i):
            yield int(begin[i])
        else:
            start = None if _bit(op, "begin_mask", i) else int(begin[i])
            stop = None if _bit(op, "end_mask", i) else end[i]
            yield slice(start, int(stop) if isinstance(stop, int) else stop, int(step[i]))


@imports("StridedSlice")
def strided_slice(importer: Importer, op: tf.Operation) -> None:
    source, target = op.inputs[0], op.outputs[0]
    imported = importer.get(source)
    before = importer.shape(source)
    selectors = list(_selectors(importer, op, len(before)))
    if isinstance(imported, Sizes) and len(selectors) == 1 and not imported.scalar:
        (selector,) = selectors
        if selector is not None:
            picked = imported.dims[selector]
            importer.set(target, Sizes(picked if isinstance(picked, tuple) else (picked,), scalar=not isinstance(picked, tuple)))
            return
    if isinstance(imported, Constant):
        importer.set(target, Constant(imported.array[tuple(selectors)]))
        return
    if isinstance(imported, CacheValue):
        importer.set(target, CacheValue(_selected_shape(imported.shape, selectors)))
        return
    name = importer.value(source)
    after: list[Dim] = []
    axis = 0
    for selector in selectors:
        if selector is None:
            after.append(1)
            continue
        name, size = _select(importer, op, name, axis, selector)
        if not isinstance(selector, int):
            after.append(size)
        axis += 1
    after += before[axis:]
    importer.set(target, reshape_value(importer, name, tuple(after)))


def _selected_shape(before: Shape, selectors: list[slice | int | None]) -> Shape:
    """The shape after cutting whole axes away; a cache is never cut otherwise."""
    remaining = iter(before)
    after: list[Dim] = []
    for selector in selectors:
        if selector is None:
            after.append(1)
        elif isinstance(selector, int):
            next(remaining)
        else:
            after.append(next(remaining))
    return (*after, *remaining)


def _select(importer: Importer, op: tf.Operation, name: str, axis: int, selector: slice | int) -> tuple[str, Dim]:
    """Apply one axis's selector, keeping the axis; returns the value and the axis's new size."""
    size = importer.graph.type_of(name).shape[axis]
    if isinstance(selector, slice) and selector.start in (None, 0) and selector.stop in (None, size) and selector.step in (None, 1):
        return name, size
    if isinstance(selector, slice) and isinstance(selector.stop, str):
        raise importer.refuse(op, f"it cuts axis {axis}, of size {size}, at {selector.stop}")
    if not isinstance(size, int) and isinstance(selector, int) and selector >= 0:
        picked = importer.graph.add_constant(np.array([selector], np.int32))
        return importer.node("gather", [name, picked], axis=axis), 1
    if not isinstance(size, int):
        raise importer.refuse(op, f"it cuts axis {axis}, whose size `{size}` is not fixed")
    if isinstance(selector, int):
        start = selector % size
        stop = start + 1
    else:
        start, stop, step = selector.indices(size)
        if step != 1:
            chosen = np.arange(start, stop, step, dtype=np.int32)
            return importer.node("gather", [name, importer.graph.add_constant(chosen)], axis=axis), len(chosen)
    if (start, stop) == (0, size):
        return name, size
    return importer.node("slice", [name], axis=axis, start=start, stop=stop), stop - start


@imports("Slice")
def slice_(importer: Importer, op: tf.Operation) -> None:
    sizes, imported, before = importer.needed_sizes(op, 2), importer.get(op.inputs[0]), importer.shape(op.inputs[0])
    if importer.is_computed_shape(op.inputs[1]):
        importer.set(op.outputs[0], _slice_from(importer, op, sizes))
        return
    begin = importer.needed_sizes(op, 1)
    if isinstance(imported, Sizes):
        stop = len(imported.dims) if sizes[0] == ALL_THE_REST else int(begin[0]) + int(sizes[0])
        importer.set(op.outputs[0], Sizes(imported.dims[int(begin[0]) : stop], scalar=False))
        return
    name = importer.value(op.inputs[0])
    for axis, (start, size) in enumerate(zip(begin, sizes, strict=True)):
        if start == 0 and size in (ALL_THE_REST, before[axis]):
            continue
        if not all(isinstance(dim, int) for dim in (start, size, before[axis])):
            raise importer.refuse(op, f"it cuts axis {axis} of {before} at named sizes")
        stop = int(before[axis]) if size == ALL_THE_REST else int(start) + int(size)
        name = importer.node("slice", [name], axis=axis, start=int(start), stop=stop)
    importer.set(op.outputs[0], name)


def _slice_from(importer: Importer, op: tf.Operation, sizes: tuple[Dim, ...]) -> str:
    """A slice whose start is computed by the graph (the call's start index): rows start, start + 1, ... are gathered."""
    name = importer.value(op.inputs[0])
    for axis, start in enumerate(packed_parts(op.inputs[1])):
        if importer.sizes(start) == (0,) and sizes[axis] in (ALL_THE_REST, importer.graph.type_of(name).shape[axis]):
            continue
        rows = importer.node("add", [importer.node("range", [], size=sizes[axis]), importer.value(start)])
        name = importer.node("gather", [name, rows], axis=axis)
    return name


@imports("GatherV2")
def gather(importer: Importer, op: tf.Operation) -> None:
    source, indices = op.inputs[0], op.inputs[1]
    axis = int(importer.needed_constant(op, 2))
    if op.get_attr("batch_dims"):
        importer.set(op.outputs[0], _gather_in_rows(importer, op, axis))
        return
    imported = importer.get(source)
    if isinstance(imported, Sizes):
        chosen = importer.needed_constant(op, 1)
        importer.set(op.outputs[0], Sizes(tuple(imported.dims[int(i)] for i in chosen.reshape(-1)), scalar=chosen.ndim == 0))
    elif isinstance(imported, WeightValue) and axis == 0 and len(imported.weight.shape) == 2:
        importer.set(op.outputs[0], importer.node("embedding", [importer.value(source), importer.value(indices)]))
    else:
        axis %= len(importer.shape(source))
        importer.set(op.outputs[0], importer.node("gather", [importer.value(source), importer.value(indices)], axis=axis))


def _gather_in_rows(importer: Importer, op: tf.Operation, axis: int) -> str:
    """Each row's own entries, x[..., indices[..., k]] over a last axis of fixed size: y[..., k] = sum over n of x[..., n] where n is the index, else 0.
    The sum has one term that is not zero, so it is exact; this is how the experts that a router chose are looked up."""
    shape, chosen = importer.shape(op.inputs[0]), importer.shape(op.inputs[1])
    last = len(shape) - 1
    if not axis == op.get_attr("batch_dims") == last == len(chosen) - 1 or not isinstance(shape[last], int):
        raise importer.refuse(op, "a batched gather other than along a last axis of fixed size")
    indices = importer.node("reshape", [importer.node("cast", [importer.value(op.inputs[1])], dtype="int32")], shape=(*chosen, 1))
    there = importer.node("eq", [indices, importer.graph.add_constant(np.arange(int(shape[last]), dtype=np.int32))])
    x = importer.node("reshape", [importer.value(op.inputs[0])], shape=(*shape[:last], 1, shape[last]))
    nothing = importer.graph.add_constant(np.zeros((), graph_dtype(op.outputs[0].dtype)))
    return importer.node("reduce_sum", [importer.node("where", [there, x, nothing])], axes=(last + 1,))
