"""Rows of ids with images in them: which image stands where, checked against what the model can do with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import Images
from kexport.runtime.prompts import Mask, Prompt, as_mask, read_table

Array = npt.NDArray[Any]
PIXEL_RANK = 5  # of a batch of prompts' images: [batch, images, height, width, channels]


@dataclass(frozen=True)
class PromptImages:
    """The images of a padded batch. `vision_mask` [batch, length]: the tokens that are an image's, the images of a row in order.

    `pixel_values[b]`: float32 [images, height, width, channels] of row b, which may have none.
    """

    pixel_values: list[Array]
    vision_mask: Mask

    def has_images(self, row: int) -> bool:
        """Whether the row's prompt has any."""
        return bool(self.vision_mask[row].any())


def with_replacements(texts: Sequence[str], record: Images) -> list[str]:
    """The texts as the original's preprocessor hands them to its tokenizer, whether or not there are images. Raises UnsupportedError (KX584) for one
    that names an image where the artifact does not know what the original writes instead."""
    if record.marker and not record.replacement and any(record.marker in text for text in texts):
        raise UnsupportedError("KX584", f"this artifact takes texts alone, none with `{record.marker}`", hint="leave it out of the prompt")
    return [text.replace(record.marker, record.replacement) for text in texts] if record.replacement else list(texts)


def place_images(prompt: Prompt, pixel_values: list[Array], record: Images) -> PromptImages:
    """The images of prompts that were packed from texts.

    Raises InvalidInputError: KX582 where a prompt names more or fewer images than it was given, or more than the model takes; KX583 where the
    prompt was cut inside an image.
    """
    for row, images in enumerate(pixel_values):
        if len(images) > record.most:
            raise InvalidInputError("KX582", f"prompt {row} has {len(images)} images; this model takes {record.most} in a prompt")
    mask: Mask = (prompt.ids == record.placeholder_id) & prompt.mask
    return _checked(PromptImages(pixel_values, mask), prompt, record, f"put `{record.marker}` where an image belongs, once for each")


def read_placed_images(inputs: Any, prompt: Prompt, record: Images) -> PromptImages | None:
    """The images of prompts that came as ids, in KerasHub's own form: `images` [batch, images, height, width, channels] as its preprocessor leaves
    them, `vision_indices` [batch, images * tokens] (0: none) and `vision_mask` [batch, length]. None where there are none.

    Raises InvalidInputError: KX580 for arrays that do not fit, KX582 and KX583 as `place_images`.
    """
    if inputs.get("images") is None or 0 in np.shape(inputs["images"]):
        return None
    missing = [name for name in ("vision_mask", "vision_indices") if inputs.get(name) is None]
    if missing:
        raise InvalidInputError("KX580", f"images among ids need `{missing[0]}`", hint="as the original's preprocessor gives it")
    pixels, size = np.asarray(inputs["images"], np.float32), (record.height, record.width, record.channels)
    if pixels.ndim != PIXEL_RANK or pixels.shape[2:] != size or len(pixels) != len(prompt.ids):
        wanted = f"[{len(prompt.ids)}, images, {', '.join(map(str, size))}]"
        raise InvalidInputError("KX580", f"`images` has the shape {pixels.shape}; {wanted} is wanted", hint="with ids, images come as pixel values")
    mask, indices = as_mask(read_table(inputs["vision_mask"], "vision_mask"), "vision_mask"), read_table(inputs["vision_indices"], "vision_indices")
    places = [row[row > 0] for row in indices]
    if mask.shape != prompt.ids.shape or len(indices) != len(mask) or any(row.tolist() != np.flatnonzero(m).tolist() for row, m in zip(places, mask, strict=True)):
        raise InvalidInputError("KX580", "`vision_indices` and `vision_mask` do not name the same places of `token_ids`")
    used = [pixels[row, : -(-int(m.sum()) // record.tokens)] for row, m in enumerate(mask)]  # KerasHub pads a row's images with zeros
    return _checked(PromptImages(used, mask), prompt, record, "each image needs its own run of ids")


def _checked(images: PromptImages, prompt: Prompt, record: Images, hint: str) -> PromptImages:
    for row, (pixels, mask) in enumerate(zip(images.pixel_values, images.vision_mask, strict=True)):
        runs = _runs(mask)
        whole = [run for run in runs if run == record.tokens]
        last = int(prompt.mask[row].sum()) - 1
        if (mask & ~prompt.mask[row]).any() or mask[last] or mask[0]:
            what = "the prompt is cut inside an image" if mask[last] else "an image stands outside of the prompt"
            raise InvalidInputError("KX583", f"row {row}: {what}", hint="shorten the text, or give a larger `max_length`")
        if len(whole) != len(runs) or len(whole) != len(pixels):
            named = f"{len(runs)} place{'' if len(runs) == 1 else 's'} for images"
            raise InvalidInputError("KX582", f"prompt {row} has {named} of {record.tokens} tokens and {len(pixels)} images", hint=hint)
    return images


def _runs(mask: Mask) -> list[int]:
    """The lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [int(stop - start) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
