"""Cases with images: prompts of ids with pixel values among them, and texts with images of any size, one of them a written file.

The images follow from the case alone, so that the original's process and the artifact's make the same ones. No Keras here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kexport.converter.parity.cases import FLOAT_BYTES, LOGIT_BYTES_AT_MOST, NEW_TOKENS, SEED, Case, Sizes, random_prompts
from kexport.runtime.contract.manifest import Images
from numpy.typing import NDArray

Array = NDArray[Any]

BETWEEN = 3  # ids of text before, between and behind images
TWO = 2
RAW_SIZES = ((20, 27), (33, 17), (16, 16))  # of images for texts: landscape, portrait, square
TEXTS = ("A picture: {0} What is this?", "No picture here", "{0} and {0}, are they the same?")
COLOURS = 256
AROUND = 16  # ids that a preprocessor writes around those of an image, and more


def build_image_cases(sizes: Sizes, record: Images) -> list[Case]:
    """A ragged batch of prompts with two images, none and one; and one image alone. None where an image does not fit the artifact's rows."""
    most = max(1, min(TWO, record.most or TWO))
    while most and _length(most, record) + 2 > sizes.capacity:
        most -= 1
    if not most:
        return []
    new_tokens = min(NEW_TOKENS, sizes.capacity - _length(most, record))
    generator = np.random.default_rng(SEED)
    counts = (most, 0, 1)
    lengths = tuple(_length(count, record) for count in counts)
    prompts = [list(row) for row in random_prompts(generator, lengths, sizes)]
    places = tuple(tuple(BETWEEN + number * (record.tokens + BETWEEN) for number in range(count)) for count in counts)
    for row, starts in zip(prompts, places, strict=True):
        for start in starts if record.placeholder_id is not None else ():
            row[start : start + record.tokens] = [int(record.placeholder_id or 0)] * record.tokens
    rows = tuple(tuple(row) for row in prompts)
    ragged = Case("images in a ragged batch", rows, max(lengths) + new_tokens, images=places)
    alone = replace(ragged, name="one image", prompts=rows[2:], images=places[2:], max_length=lengths[2] + min(NEW_TOKENS, sizes.capacity - lengths[2]))
    return [ragged, alone]


def affords_logits(case: Case, sizes: Sizes) -> bool:
    """Whether the logits of all the case's positions can be kept."""
    return len(case.prompts) * case.max_length * sizes.vocabulary * FLOAT_BYTES <= LOGIT_BYTES_AT_MOST


def _length(images: int, record: Images) -> int:
    return BETWEEN + images * (record.tokens + BETWEEN)


def image_text_case(record: Images, length: int) -> Case | None:
    """Texts with images, `length` the room that one of them has without images; None where the model's preprocessor takes none."""
    if record.steps is None or not record.most:
        return None
    most = min(TWO, record.most)
    texts = tuple(text.format(record.marker) for text in TEXTS[: most + 1])
    counts = [text.count(record.marker) for text in texts]
    return Case("text with images", (), length + most * (record.tokens + AROUND), texts=texts, images=tuple(tuple(range(c)) for c in counts))


def placed_images(case: Case, record: Images, length: int) -> dict[str, Array]:
    """What KerasHub's preprocessor gives beside the ids of a case in id mode, for rows of `length`: images, vision_mask, vision_indices."""
    most = max(len(starts) for starts in case.images)
    size = (record.height, record.width, record.channels)
    images = np.zeros((len(case.images), most, *size), np.float32)
    mask = np.zeros((len(case.images), length), bool)
    indices = np.zeros((len(case.images), most * record.tokens), np.int32)
    for row, starts in enumerate(case.images):
        for number, start in enumerate(starts):
            images[row, number] = np.random.default_rng([SEED, row, number]).normal(0, 1, size)
            mask[row, start : start + record.tokens] = True
            indices[row, number * record.tokens : (number + 1) * record.tokens] = np.arange(start, start + record.tokens)
    return {"images": images, "vision_mask": mask, "vision_indices": indices}


def raw_images(case: Case, record: Images) -> list[list[Array]]:
    """The images of a case on texts, one list a text, float32 of whole numbers up to 255."""

    def image(row: int, number: int) -> Array:
        height, width = RAW_SIZES[(row + number) % len(RAW_SIZES)]
        return np.random.default_rng([SEED, row, number]).integers(0, COLOURS, (height, width, record.channels)).astype(np.float32)

    return [[image(row, number) for number in numbers] for row, numbers in enumerate(case.images)]


def with_first_as_file(images: list[list[Array]], directory: Path) -> list[list[Any]]:
    """The same, the first image as a PNG file in `directory` where Pillow is here to write it."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return list(images)
    path = directory / "image.png"
    Image.fromarray(images[0][0].astype(np.uint8)).save(path)
    return [[path, *images[0][1:]], *images[1:]]
