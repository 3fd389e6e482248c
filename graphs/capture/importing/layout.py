"""TensorFlow ops about shapes and layout. Shape arithmetic becomes named dims; layout ops on weights stay references."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from kexport.graphs.capture.importing.importer import ComputedShape, Constant, Importer, Sizes, WeightValue, graph_dtype, imports
from kexport.graphs.dims import Dim, Shape, broadcast, product, quotient

INFERRED = -1


def reshape_value(importer: Importer, name: str, shape: Shape) -> str:
    """A graph value in another shape; no node where it has that shape already."""
    return name if importer.graph.type_of(name).shape == shape else importer.node("reshape", [name], shape=shape)


def set_reshaped(importer: Importer, source: tf.Tensor, target: tf.Tensor, shape: Shape) -> None:
    """`target` is `source` in another shape, lazily where it is a weight, known where it is a constant."""
    imported = importer.get(source)
    if isinstance(imported, WeightValue):
        importer.set(target, WeightValue(imported.weight.reshape(tuple(int(dim) for dim in shape))))
    elif isinstance(imported, Constant) and all(isinstance(dim, int) for dim in shape):
        importer.set(target, Constant(imported.array.reshape(tuple(int(dim) for dim in shape))))
    elif isinstance(imported, Sizes) and len(shape) <= 1:
        importer.set(target, Sizes(imported.dims, scalar=len(shape) == 0))
    else:
        importer.set(target, reshape_value(importer, importer.value(source), shape))


@imports("Shape")
def shape(importer: Importer, op: tf.Operation) -> None:
    importer.set(op.outputs[0], Sizes(importer.shape(op.inputs[0]), scalar=False))


@imports("Rank")
def rank(importer: Importer, op: tf.Operation) -> None:
    importer.set(op.outputs[0], Sizes((len(importer.shape(op.inputs[0])),), scalar=True))


@imports("Size")
def size(importer: Importer, op: tf.Operation) -> None:
    importer.set(op.outputs[0], Sizes((product(importer.shape(op.inputs[0])),), scalar=True))


@imports("Prod")
def prod(importer: Importer, op: tf.Operation) -> None:
    importer.set(op.outputs[0], Sizes((product(importer.needed_sizes(op, 0)),), scalar=op.outputs[0].shape.rank == 0))


@imports("Reshape")
def reshape(importer: Importer, op: tf.Operation) -> None:
    before, target = importer.shape(op.inputs[0]), list(importer.needed_sizes(op, 1))
    if INFERRED in target:
        known = product(dim for dim in target if dim != INFERRED)
        inferred = quotient(product(before), known)
        if inferred is None:
            raise importer.refuse(op, f"cannot infer the open size of {target} from {before}")
        target[target.index(INFERRED)] = inferred
    set_reshaped(importer, op.inputs[0], op.outputs[0], tuple(target))


@imports("ExpandDims")
def expand_dims(importer: Importer, op: tf.Operation) -> None:
    before = importer.shape(op.inputs[0])
    axis = int(importer.needed_constant(op, 1)) % (len(before) + 1)
    set_reshaped(importer, op.inputs[0], op.outputs[0], (*before[:axis], 1, *before[axis:]))


@imports("Squeeze")
def squeeze(importer: Importer, op: tf.Operation) -> None:
    before = importer.shape(op.inputs[0])
    axes = [axis % len(before) for axis in op.get_attr("squeeze_dims")] or [axis for axis, dim in enumerate(before) if dim == 1]
    set_reshaped(importer, op.inputs[0], op.outputs[0], tuple(dim for axis, dim in enumerate(before) if axis not in axes))


@imports("Transpose")
def transpose(importer: Importer, op: tf.Operation) -> None:
    permutation = tuple(int(axis) for axis in importer.needed_constant(op, 1))
    weight = importer.weight(op.inputs[0])
    if weight is not None:
        importer.set(op.outputs[0], WeightValue(weight.transpose(permutation)))
    else:
        importer.set(op.outputs[0], importer.node("transpose", [importer.value(op.inputs[0])], permutation=permutation))


@imports("BroadcastTo")
def broadcast_to(importer: Importer, op: tf.Operation) -> None:
    shape = importer.needed_sizes(op, 1)
    name = importer.value(op.inputs[0])
    same = importer.graph.type_of(name).shape == shape
    importer.set(op.outputs[0], name if same else importer.node("broadcast_to", [name], shape=shape))


@imports("Tile")
def tile(importer: Importer, op: tf.Operation) -> None:
    before, repeats = importer.shape(op.inputs[0]), importer.needed_sizes(op, 1)
    spread: list[Dim] = []
    wide: list[Dim] = []
    for dim, repeat in zip(before, repeats, strict=True):
        spread += [dim] if repeat == 1 else [1, dim]  # formats bound the number of axes
        wide += [dim] if repeat == 1 else [repeat, dim]
    name = reshape_value(importer, importer.value(op.inputs[0]), tuple(spread))
    if tuple(wide) != tuple(spread):
        name = importer.node("broadcast_to", [name], shape=tuple(wide))
    after = tuple(product(pair) for pair in zip(before, repeats, strict=True))
    importer.set(op.outputs[0], reshape_value(importer, name, after))


@imports("Fill")
def fill(importer: Importer, op: tf.Operation) -> None:
    _filled(importer, op.outputs[0], importer.needed_sizes(op, 0), importer.value(op.inputs[1]))


@imports("ZerosLike", "OnesLike")
def zeros_or_ones_like(importer: Importer, op: tf.Operation) -> None:
    number = importer.graph.add_constant(np.asarray(op.type == "OnesLike", graph_dtype(op.outputs[0].dtype)))
    _filled(importer, op.outputs[0], importer.shape(op.inputs[0]), number)


def _filled(importer: Importer, target: tf.Tensor, shape: Shape, number: str) -> None:
    importer.set(target, importer.node("broadcast_to", [number], shape=shape) if shape else number)


def packed_parts(tensor: tf.Tensor) -> list[tf.Tensor]:
    """The scalars a computed shape was packed from."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return list(tensor.op.inputs)


@imports("Pack")
def pack(importer: Importer, op: tf.Operation) -> None:
    dims = [importer.sizes(tensor) for tensor in op.inputs]
    integers = not op.outputs[0].dtype.is_floating and op.outputs[0].shape.rank == 1
    if integers and all(part is not None for part in dims):
        importer.set(op.outputs[0], Sizes(tuple(part[0] for part in dims if part is not None), scalar=False))
        return
    if integers:
        importer.set(op.outputs[0], ComputedShape(len(op.inputs)))
        return
    before = importer.shape(op.inputs[0])
    axis = op.get_attr("axis") % (len(before) + 1)
    shape = (*before[:axis], 1, *before[axis:])
    parts = [reshape_value(importer, importer.value(tensor), shape) for tensor in op.inputs]
    importer.set(op.outputs[0], importer.node("concat", parts, axis=axis))


@imports("ConcatV2")
def concat(importer: Importer, op: tf.Operation) -> None:
    parts = list(op.inputs)[:-1]
    dims = [importer.sizes(tensor) for tensor in parts]
    if not op.outputs[0].dtype.is_floating and op.outputs[0].shape.rank == 1 and all(part is not None for part in dims):
        importer.set(op.outputs[0], Sizes(tuple(dim for part in dims if part is not None for dim in part), scalar=False))
        return
    axis = int(importer.needed_constant(op, len(parts))) % op.outputs[0].shape.rank
    importer.set(op.outputs[0], importer.node("concat", [importer.value(tensor) for tensor in parts], axis=axis))


@imports("Split", "SplitV", "Unpack")
def split(importer: Importer, op: tf.Operation) -> None:
    index = {"Split": 1, "SplitV": 0, "Unpack": 0}[op.type]
    source = op.inputs[index]
    before = importer.shape(source)
    axis = int(op.get_attr("axis")) if op.type == "Unpack" else int(importer.needed_constant(op, 0 if op.type == "Split" else 2))
    axis %= len(before)
    if not isinstance(before[axis], int):
        raise importer.refuse(op, f"axis {axis} of {before} has no fixed size")
    sizes = tuple(int(s) for s in importer.needed_constant(op, 1)) if op.type == "SplitV" else (int(before[axis]) // len(op.outputs),) * len(op.outputs)
    names = importer.nodes("split", [importer.value(source)], len(sizes), axis=axis, sizes=sizes)
    for target, name in zip(op.outputs, names, strict=True):
        dropped = (*before[:axis], *before[axis + 1 :])
        importer.set(target, reshape_value(importer, name, dropped) if op.type == "Unpack" else name)


@imports("Range")
def range_(importer: Importer, op: tf.Operation) -> None:
    start, limit, step = (importer.sizes(tensor) for tensor in op.inputs)
    dtype = graph_dtype(op.outputs[0].dtype)
    if start is None or limit is None or step is None:
        raise importer.refuse(op, "a range whose bounds depend on the data")
    bounds = (start[0], limit[0], step[0])
    if all(isinstance(bound, int) for bound in bounds):
        importer.set(op.outputs[0], Constant(np.arange(*(int(bound) for bound in bounds), dtype=np.dtype(dtype))))
    elif start[0] == 0 and step[0] == 1:
        importer.set(op.outputs[0], importer.node("range", [], size=limit[0], dtype=dtype))
    else:
        raise importer.refuse(op, f"a range of {bounds}")


@imports("BroadcastArgs")
def broadcast_args(importer: Importer, op: tf.Operation) -> None:
    left, right = importer.needed_sizes(op, 0), importer.needed_sizes(op, 1)
    both = broadcast(left, right)
    if both is None:
        raise importer.refuse(op, f"{left} and {right} cannot be shown to broadcast")
    importer.set(op.outputs[0], Sizes(both, scalar=False))
