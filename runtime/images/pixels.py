"""Images as a caller gives them -> pixel values: what a KerasHub preprocessor makes of a batch of prompts' images.

An image is an array [height, width, channels] of numbers up to 255, a file's path, or an open Pillow image. Images of one batch are first put
into one frame, the largest height and width among them, with zeros below and to the right, as KerasHub does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import Images, ImageSteps
from kexport.runtime.images.resize import cropped, padded, resize

Array = npt.NDArray[Any]
IMAGE_RANK = 3
_HINT = "an image is an array [height, width, channels], a file's path, or a Pillow image"


def read_images(given: Any, prompts: int, *, is_single: bool, record: Images) -> list[list[Array]]:
    """The images of each prompt, in KerasHub's forms: for one prompt an image or a list of images; for several one image each, or a list of images
    each. Raises InvalidInputError: KX580 for anything else, KX581 for a file that is no image; UnsupportedError (KX511) for files without Pillow.
    """
    if is_single:
        rows = [[given] if _is_image(given) else _listed(given)]
    else:
        rows = [[row] if _is_image(row) else _listed(row) for row in _listed(given)]
    if len(rows) != prompts:
        raise InvalidInputError("KX580", f"images for {len(rows)} prompts do not fit {prompts} prompts", hint="give each prompt its image, or a list of images")
    return [[_as_array(image, record.channels) for image in row] for row in rows]


def to_pixel_values(rows: Sequence[Sequence[Array]], record: Images) -> list[Array]:
    """For each prompt float32 [images, height, width, channels]: what `vision` takes."""
    assert record.steps is not None, "an artifact that takes texts knows what its preprocessor does"
    every = [image for row in rows for image in row]
    frame = tuple(max((image.shape[axis] for image in every), default=0) for axis in range(2))
    return [_stacked([_prepared(_framed(image, frame), record, record.steps) for image in row], record) for row in rows]


def _stacked(images: list[Array], record: Images) -> Array:
    return np.stack(images) if images else np.zeros((0, record.height, record.width, record.channels), np.float32)


def _framed(image: Array, frame: tuple[int, ...]) -> Array:
    below, beside = (size - own for size, own in zip(frame, image.shape, strict=False))
    return np.pad(image, ((0, below), (0, beside), (0, 0))) if below or beside else image


def _prepared(image: Array, record: Images, steps: ImageSteps) -> Array:
    """One image [any, any, channels] -> float32 [height, width, channels]."""
    if steps.aspect == "crop":
        image = cropped(image, record.height, record.width)
    elif steps.aspect == "pad":
        image = padded(image, record.height, record.width)
    values = resize(image, record.height, record.width, steps.interpolation)
    if steps.scale:
        values = values * np.asarray(steps.scale, np.float32)
    if steps.offset:
        values = values + np.asarray(steps.offset, np.float32)
    return values


def _is_image(value: Any) -> bool:
    """Whether `value` is one image, and no list of them."""
    return isinstance(value, (str, os.PathLike)) or _is_pillow(value) or (hasattr(value, "shape") and len(value.shape) == IMAGE_RANK)


def _is_pillow(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getbands")


def _listed(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise InvalidInputError("KX580", f"`images` holds {type(value).__name__}, which is no image", hint=_HINT)
    return list(value)


def _as_array(image: Any, channels: int) -> Array:
    """float32 [height, width, channels]."""
    if isinstance(image, (str, os.PathLike)):
        image = _opened(Path(image))
    elif _is_pillow(image):
        image = image.convert("RGB")
    try:
        array = np.asarray(image, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError("KX580", f"`images` holds {type(image).__name__}, which is no image", hint=_HINT) from error
    if array.ndim != IMAGE_RANK or array.shape[-1] != channels or 0 in array.shape:
        raise InvalidInputError("KX580", f"an image has the shape {array.shape}; [height, width, {channels}] is wanted", hint=_HINT)
    return array


def _opened(path: Path) -> Any:
    """The pixels of an image file, as RGB, the way they are stored (no turning by its EXIF record), as `keras.utils.load_img` gives them."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise UnsupportedError("KX511", "image files need `Pillow`, which is not installed", hint='pip install "kexport[images]"') from error
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except FileNotFoundError as error:
        raise InvalidInputError("KX581", f"there is no file `{path}`") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInputError("KX581", f"`{path}` is not a readable image: {error}", hint="PNG, JPEG and what else Pillow reads") from error
