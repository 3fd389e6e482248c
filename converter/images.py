"""Images beside text: which graphs an artifact gets for them, and the record of what the original's preprocessor does, proven equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from kexport.converter.options import ConvertOptions
from kexport.graphs.ir import Graph
from kexport.graphs.passes import optimise_forward, run_passes
from kexport.runtime.contract.errors import UnsupportedError, UsageError
from kexport.runtime.contract.manifest import Images, ImageSteps, Tokenizer
from kexport.runtime.images.pixels import to_pixel_values
from kexport.runtime.images.prompts import with_replacements
from kexport.runtime.images.resize import METHODS
from kexport.runtime.tokenizer import open_tokenizer

TEXT_ONLY_HINT = "convert it for texts alone: --text-only"
PROVEN_SIZES = ((20, 27), (33, 17), (64, 64), (7, 90), (512, 300))  # of images, beside the model's own size
LARGEST_DIFFERENCE = 1e-5  # of pixel values, which lie around 1
SEED = 20260101
PROVEN_TEXTS = ("{0}", "before {0} after", "{0}{0} two", "none")


def capture_image_graphs(task: Any, extend: Graph, options: ConvertOptions) -> tuple[dict[str, Graph], list[str]]:
    """The graphs that images need, in the form the targets take, and notes; none for a task without a vision tower, and with --text-only.

    Raises:
        UnsupportedError: what graphs.capture.images cannot capture.
        UsageError: KX110, rows that no image fits.
    """
    from kexport.graphs.capture.images import capture_images, images_of

    if options.text_only:
        return {}, []
    family = images_of(task)
    if family is None:
        return {}, []
    if options.max_length is not None and options.max_length < family.tokens + 2:
        raise UsageError("KX103", f"--max-length is {options.max_length}; an image alone is {family.tokens} tokens", hint=f"give more, or {TEXT_ONLY_HINT}")
    graphs, notes = capture_images(task, extend.slots)
    for graph in graphs.values():
        run_passes(graph, optimise_forward())
    return graphs, notes


def image_record(task: Any, *, text_only: bool) -> Images | None:
    """What the original does with images, None where it takes none: without a preprocessor its sizes, else all steps, proven. `text_only`: what it does
    with texts that name images, and no more.

    Raises:
        UnsupportedError: KX446, a step that the runtime does not have.
    """
    from kexport.graphs.capture.images import images_of

    family, own = images_of(task), getattr(task, "preprocessor", None)
    if family is None:
        marker = getattr(own, "image_placeholder", None) if getattr(own, "image_converter", None) is not None else None
        return Images(height=0, width=0, tokens=0, marker=marker) if marker else None  # what its preprocessor makes of it is not known
    height, width, channels = family.image_shape
    sizes = Images(height=height, width=width, channels=channels, tokens=family.tokens)
    preprocessor: Any = own
    if getattr(preprocessor, "image_converter", None) is None:
        return sizes
    record = _with_preprocessor(sizes, preprocessor)
    if text_only:
        return record
    record = msgspec.structs.replace(record, steps=_steps(preprocessor.image_converter))
    _prove_steps(preprocessor.image_converter, record)
    return record


def _with_preprocessor(sizes: Images, preprocessor: Any) -> Images:
    own = (preprocessor.image_converter.image_size, preprocessor.num_vision_tokens_per_image)
    if own != ((sizes.height, sizes.width), sizes.tokens):
        message = f"the preprocessor makes images of {own[0]} and {own[1]} tokens, the model wants {(sizes.height, sizes.width)} and {sizes.tokens}"
        raise UnsupportedError("KX446", message, hint=TEXT_ONLY_HINT)
    tokenizer = preprocessor.tokenizer
    marker, placeholder = preprocessor.start_of_image_token, preprocessor.image_placeholder
    return Images(
        height=sizes.height,
        width=sizes.width,
        channels=sizes.channels,
        tokens=sizes.tokens,
        most=int(preprocessor.max_images_per_prompt),
        marker=marker,
        replacement=f"\n\n{marker}{placeholder * sizes.tokens}{preprocessor.end_of_image_token}\n\n",
        placeholder_id=int(tokenizer.token_to_id(placeholder)),
    )


def _steps(converter: Any) -> ImageSteps:
    if converter.interpolation not in METHODS or converter.antialias or converter.data_format != "channels_last":
        described = f"{converter.interpolation}, antialias={converter.antialias}, {converter.data_format}"
        raise UnsupportedError("KX446", f"images are resized in a way that the runtime does not have: {described}", hint=TEXT_ONLY_HINT)
    aspect: Literal["crop", "pad", "stretch"] = "crop" if converter.crop_to_aspect_ratio else "pad" if converter.pad_to_aspect_ratio else "stretch"
    return ImageSteps(
        interpolation=converter.interpolation, aspect=aspect, scale=_per_channel(converter.scale), offset=_per_channel(converter.offset)
    )


def _per_channel(value: Any) -> tuple[float, ...]:
    return () if value is None else tuple(float(number) for number in np.atleast_1d(np.asarray(value, np.float64)))


def _prove_steps(converter: Any, record: Images) -> None:
    """The runtime's pixel values against the original's, for images of several sizes."""
    generator = np.random.default_rng(SEED)
    for size in ((record.height, record.width), *PROVEN_SIZES):
        image = generator.integers(0, 256, (*size, record.channels)).astype(np.float32)
        theirs, ours = np.asarray(converter(image[None]))[0], to_pixel_values([[image]], record)[0][0]
        if ours.shape != theirs.shape or not np.abs(ours - theirs).max() <= LARGEST_DIFFERENCE * max(1.0, float(np.abs(theirs).max())):
            raise UnsupportedError("KX446", f"an image of {size} becomes other pixel values than the original's", hint=TEXT_ONLY_HINT)


def prove_replacement(preprocessor: Any, directory: Path, tokenizer: Tokenizer, record: Images) -> None:
    """The ids of texts that name images, from the artifact's files, against the original's.

    Raises:
        UnsupportedError: KX446, they differ.
    """
    texts = [text.format(record.marker) for text in PROVEN_TEXTS]
    length = 2 * record.tokens + len(tokenizer.packers["prompt"].start) + sum(map(len, PROVEN_TEXTS)) + 2 * len(record.replacement) // record.tokens
    ours = open_tokenizer(directory, tokenizer).pack("prompt", with_replacements(texts, record), length)
    theirs: Mapping[str, Any] = preprocessor.generate_preprocess(texts, sequence_length=length)
    if not np.array_equal(ours.ids, np.asarray(theirs["token_ids"])):
        raise UnsupportedError("KX446", "texts that name images become other ids than the original's", hint=TEXT_ONLY_HINT)
