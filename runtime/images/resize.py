"""Images of any size to images of one size, as TensorFlow's `tf.image.resize` without antialiasing does it on a CPU, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
HALF = np.float32(0.5)


def resize(image: Array, height: int, width: int, interpolation: str) -> Array:
    """float32 [height, width, channels] of an image [any, any, channels]. Raises KeyError for an interpolation that is not in METHODS."""
    if image.shape[:2] == (height, width):
        return image.astype(np.float32)
    return METHODS[interpolation](image.astype(np.float32), height, width)


def _bilinear(image: Array, height: int, width: int) -> Array:
    """Along the columns first, then along the rows, as the kernel does: the order decides the last bit."""
    top, bottom, down = _neighbours(image.shape[0], height)
    left, right, across = _neighbours(image.shape[1], width)
    across, down = across[None, :, None], down[:, None, None]

    def along_columns(lines: Array) -> Array:
        first: Array = lines[:, left]
        between: Array = first + (lines[:, right] - first) * across
        return between

    upper = along_columns(image[top])
    result: Array = upper + (along_columns(image[bottom]) - upper) * down
    return result


def _nearest(image: Array, height: int, width: int) -> Array:
    rows, columns = (
        np.clip(np.floor(_centres(old, new) + HALF).astype(np.int64), 0, old - 1) for old, new in zip(image.shape[:2], (height, width), strict=True)
    )
    result: Array = image[rows][:, columns]
    return result


def _centres(old: int, new: int) -> Array:
    """Where the middle of each new pixel lies among the old ones, float32 as the kernel computes it."""
    scale = np.float32(old) / np.float32(new)
    centres: Array = (np.arange(new, dtype=np.float32) + HALF) * scale - HALF
    return centres


def _neighbours(old: int, new: int) -> tuple[Array, Array, Array]:
    """The old pixels before and after each new one, and how far it lies between them."""
    centres = _centres(old, new)
    floor = np.floor(centres)
    before = np.maximum(floor, 0).astype(np.int64)
    after = np.minimum(np.ceil(centres), old - 1).astype(np.int64)
    return before, after, centres - floor


METHODS: dict[str, Callable[[Array, int, int], Array]] = {"bilinear": _bilinear, "nearest": _nearest}


def cropped(image: Array, height: int, width: int) -> Array:
    """The largest window in the middle of the image that has the sides' ratio of `height` to `width`."""
    rows, columns = image.shape[:2]
    kept_rows = max(min(rows, int(np.float32(columns * height) / np.float32(width))), 1)
    kept_columns = max(min(columns, int(np.float32(rows * width) / np.float32(height))), 1)
    top, left = int((rows - kept_rows) / 2), int((columns - kept_columns) / 2)
    return image[top : top + kept_rows, left : left + kept_columns]


def padded(image: Array, height: int, width: int) -> Array:
    """The image with zeros around it, equally many on both sides, so that its sides are as `height` to `width`."""
    rows, columns = image.shape[:2]
    wanted_rows = max(rows, int(np.float32(columns * height) / np.float32(width)))
    wanted_columns = max(columns, int(np.float32(rows * width) / np.float32(height)))
    above, beside = int((wanted_rows - rows) / 2), int((wanted_columns - columns) / 2)
    return np.pad(image, ((above, above), (beside, beside), (0, 0)))
