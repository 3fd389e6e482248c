"""What a caller may hand to `generate()`: one batch, or an iterable of batches; and the results of several batches as one.

A batch of texts is a text, a list of texts, or an array of texts; a batch of ids is a dict of arrays. Anything else that can be iterated over
holds batches: a `tf.data.Dataset`, a generator, a list of lists. Texts may come as bytes (UTF-8), numpy arrays, or whatever turns into one
(`__array__`, `.numpy()`): a dataset's elements do, and KerasHub itself takes them from some tokenizers only. No other library is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from kexport.runtime.contract.errors import InvalidInputError

ENCODER_TEXT, DECODER_TEXT = "encoder_text", "decoder_text"
PROMPTS, IMAGES = "prompts", "images"


def batches_of(inputs: Any) -> Iterator[Any] | None:
    """The batches that `inputs` holds; None where it is one batch itself (or nothing that `generate()` takes)."""
    if isinstance(inputs, (str, bytes, Mapping)) or _is_array(inputs):
        return None
    if isinstance(inputs, (list, tuple)):
        return iter(inputs) if inputs and all(_is_batch(element) for element in inputs) else None
    return iter(inputs) if isinstance(inputs, Iterable) else None


def read_texts(inputs: Any) -> tuple[list[str], bool]:
    """One batch of texts as a list, and whether there was one text alone. Raises InvalidInputError (KX528) for anything but text."""
    values = _plain(inputs)
    is_single = isinstance(values, (str, bytes))
    texts = [values] if is_single else [_plain(value) for value in values] if isinstance(values, (list, tuple)) else None
    if texts is None or not all(isinstance(text, (str, bytes)) for text in texts):
        hint = "token ids need `preprocessor=None` at loading" if isinstance(inputs, Mapping) else ""
        raise InvalidInputError("KX528", f"a prompt is a text or a list of texts, not {type(inputs).__name__}", hint=hint)
    if not texts:
        raise InvalidInputError("KX528", "there is no prompt")
    return [_decoded(text) for text in texts], is_single


def read_text_pair(inputs: Any) -> tuple[list[str], list[str], bool]:
    """One batch of encoder texts and decoder texts (empty ones where only the former are given). Raises as `read_texts`."""
    if not isinstance(inputs, Mapping):
        texts, is_single = read_texts(inputs)
        return texts, [""] * len(texts), is_single
    missing = [key for key in (ENCODER_TEXT, DECODER_TEXT) if key not in inputs]
    if missing:
        raise InvalidInputError(
            "KX528", f"the prompt has no `{missing[0]}`", hint="give `encoder_text` and `decoder_text`, or a text alone"
        )
    encoder_texts, _ = read_texts(inputs[ENCODER_TEXT])
    decoder_texts, is_single = read_texts(inputs[DECODER_TEXT])
    if len(encoder_texts) != len(decoder_texts):
        raise InvalidInputError("KX528", f"{len(encoder_texts)} encoder texts do not fit {len(decoder_texts)} decoder texts")
    return encoder_texts, decoder_texts, is_single


def split_images(inputs: Any) -> tuple[Any, Any]:
    """The texts of one batch, and the images given with them in a dict of `prompts` and `images` (None: none). Raises InvalidInputError (KX528)."""
    if not isinstance(inputs, Mapping) or PROMPTS not in inputs:
        return inputs, None
    unknown = [key for key in inputs if key not in (PROMPTS, IMAGES)]
    if unknown:
        raise InvalidInputError("KX528", f"the prompt has `{unknown[0]}`, which means nothing here", hint="give `prompts` and `images`")
    return inputs[PROMPTS], inputs.get(IMAGES)


def of_one_length(batches: Iterable[Any], key: str) -> Iterator[Any]:
    """`batches` of ids, each checked before it is run: the array called `key` must be as long as the first batch's, or nothing could be joined.

    Raises InvalidInputError (KX520). What is no such batch passes: reading it says what is wrong.
    """
    first: int | None = None
    for number, batch in enumerate(batches):
        shape = _shape(batch[key]) if isinstance(batch, Mapping) and key in batch else ()
        if shape and first is not None and shape[-1] != first:
            message = f"batch {number} is padded to {shape[-1]} tokens, the first one to {first}: their results cannot be joined"
            raise InvalidInputError("KX520", message, hint="pad all batches to one length, or call generate() for each")
        first = shape[-1] if shape and first is None else first
        yield batch


def joined_texts(results: Iterable[str | list[str]]) -> list[str]:
    """The texts of several batches. Raises InvalidInputError (KX528) where there was no batch."""
    texts: list[str] = []
    for result in results:
        texts += [result] if isinstance(result, str) else result
    if not texts:
        raise InvalidInputError("KX528", "there is no prompt")
    return texts


def joined_arrays(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The arrays of several batches, joined row by row. Raises InvalidInputError (KX520) where there was no batch."""
    batches = list(results)
    if not batches:
        raise InvalidInputError("KX520", "there is no prompt")
    return {key: np.concatenate([batch[key] for batch in batches], axis=0) for key in batches[0]}


def unwrapped(value: Any) -> Any:
    """`value`, or what its `.numpy()` gives where numpy could not read it otherwise."""
    return value if hasattr(value, "__array__") or not callable(getattr(value, "numpy", None)) else value.numpy()


def _is_batch(element: Any) -> bool:
    """Whether an element of a list is more than one text."""
    return isinstance(element, (list, tuple, Mapping)) or (_is_array(element) and np.ndim(_plain(element)) > 0)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__array__") or callable(getattr(value, "numpy", None))


def _plain(value: Any) -> Any:
    """An array as nested lists, or as its one element where it has no axis; anything else as it is."""
    if isinstance(value, (str, bytes)) or not _is_array(value):
        return value
    return np.asarray(unwrapped(value)).tolist()


def _shape(value: Any) -> tuple[int, ...]:
    try:
        return np.shape(unwrapped(value))
    except ValueError:  # rows of different lengths
        return ()


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return str(text)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError("KX528", f"a prompt of bytes is not UTF-8 text: {error}", hint="decode it before") from error
