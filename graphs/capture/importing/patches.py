"""Convolutions and pools whose windows lie side by side: cut into windows by layout ops, then a product or a mean. Others are refused."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf
from kexport.graphs.capture.importing.importer import COMPUTE_DTYPE, Importer, imports
from kexport.graphs.dims import Dim, product


@dataclass(frozen=True, slots=True)
class Windows:
    """An image [batch, rows * height, columns * width, channels] as windows: `value` is [batch, rows, height, columns, width, channels]."""

    value: str
    batch: Dim
    rows: int
    columns: int
    height: int
    width: int
    channels: int


def _windows(importer: Importer, op: tf.Operation, height: int, width: int) -> Windows:
    """The first input of `op` cut into windows of `height` x `width`.

    Raises:
        UnsupportedError: its windows overlap, lie apart, or stand over the edge.
    """
    strides = [int(stride) for stride in op.get_attr("strides")]
    batch, image_height, image_width, channels = importer.shape(op.inputs[0])
    plain = op.get_attr("data_format") == b"NHWC" and op.get_attr("padding") == b"VALID" and strides == [1, height, width, 1]
    sizes = (image_height, image_width, channels)
    if not plain or not all(isinstance(size, int) for size in sizes) or int(image_height) % height or int(image_width) % width:
        raise importer.refuse(op, f"its windows of {height} x {width} do not cover {sizes[:2]} side by side")
    rows, columns = int(image_height) // height, int(image_width) // width
    shape = (batch, rows, height, columns, width, int(channels))
    value = importer.node("reshape", [importer.value(op.inputs[0])], shape=shape)
    return Windows(value, batch, rows, columns, height, width, int(channels))


@imports("Conv2D")
def convolution(importer: Importer, op: tf.Operation) -> None:
    """Patches times the kernel: [batch, rows * columns, height * width * channels] @ [height * width * channels, filters]."""
    kernel = importer.weight(op.inputs[1])
    if kernel is None or list(op.get_attr("dilations")) != [1, 1, 1, 1]:
        raise importer.refuse(op, "its kernel is computed or dilated")
    height, width, channels, filters = kernel.shape
    windows = _windows(importer, op, height, width)
    if windows.channels != channels:
        raise importer.refuse(op, "its kernel is for groups of channels")
    patches = importer.node("transpose", [windows.value], permutation=(0, 1, 3, 2, 4, 5))
    size = height * width * channels
    flat = importer.node("reshape", [patches], shape=(windows.batch, windows.rows * windows.columns, size))
    matrix = importer.graph.add_weight(kernel.cast(COMPUTE_DTYPE).reshape((size, filters)))
    result = importer.node("matmul", [flat, matrix])
    importer.set(op.outputs[0], importer.node("reshape", [result], shape=(windows.batch, windows.rows, windows.columns, filters)))


@imports("AvgPool")
def average_pool(importer: Importer, op: tf.Operation) -> None:
    """The mean of each window: over the columns of a window, then over its rows, so that no tensor has more than five axes."""
    _, height, width, _ = (int(size) for size in op.get_attr("ksize"))
    windows = _windows(importer, op, height, width)
    shape = (product((windows.batch, windows.rows, height)), windows.columns, width, windows.channels)
    narrow = importer.node("reduce_mean", [importer.node("reshape", [windows.value], shape=shape)], axes=(2,), keepdims=False)
    shape = (product((windows.batch, windows.rows)), height, windows.columns, windows.channels)
    means = importer.node("reduce_mean", [importer.node("reshape", [narrow], shape=shape)], axes=(1,), keepdims=False)
    importer.set(op.outputs[0], importer.node("reshape", [means], shape=(windows.batch, windows.rows, windows.columns, windows.channels)))
