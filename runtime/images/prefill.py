"""Prompts with images into caches: `vision` embeds the images, `prefill_images` runs the prompt, an engine takes what its caches then hold.

Each row is run by itself, so that no padding is computed. The last token of a prompt is left to the engine's own step, which gives the logits: KerasHub's loop
feeds it again, too, and computes the same of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.engines.base import CacheState, Engine, Lengths
from kexport.runtime.forward import Forward
from kexport.runtime.images.prompts import PromptImages
from kexport.runtime.prompts import Ids

Array = npt.NDArray[Any]


class ImagePrefill:
    """The images of one batch, and the runner of the signatures that they need, opened where an image is there."""

    def __init__(self, images: PromptImages, open_forward: Callable[[], Forward]) -> None:
        self._images, self._open_forward = images, open_forward

    def fill(self, engine: Engine, cache: CacheState, rows: npt.NDArray[np.intp], ids: Ids, lengths: Lengths) -> tuple[Ids, Lengths]:
        """Put the prompts with images into an empty cache, all but their last tokens; row i of the cache is row `rows[i]` of the batch, its prompt
        `ids[i, :lengths[i]]`. Returns what is left for `extend`: ids, and how many of each row count."""
        left, lengths = ids.copy(), lengths.copy()
        contents: list[list[Array]] = []
        for place, row in enumerate(rows.tolist()):
            if not self._images.has_images(row):
                contents.append([])
                continue
            held = int(lengths[place]) - 1
            contents.append(self._run(row, ids[place, :held]))
            left[place, 0], lengths[place] = ids[place, held], 1
        engine.fill(cache, contents)
        return left[:, : int(lengths.max())], lengths

    def _run(self, row: int, ids: Ids) -> list[Array]:
        """Keys and values in the order of the caches' tensors, each [tokens, heads, dim]."""
        forward = self._open_forward()
        mask = self._images.vision_mask[row, : len(ids)]
        embedded = forward.run(names.VISION, {names.PIXEL_VALUES: self._images.pixel_values[row]})[names.IMAGE_EMBEDDINGS]
        placed = np.zeros((len(ids), embedded.shape[-1]), np.float32)
        rows = embedded.reshape(-1, embedded.shape[-1])
        if len(rows) != mask.sum():
            raise InvalidInputError("KX555", f"the manifest promises {int(mask.sum())} embeddings of these images, `vision` gives {len(rows)}")
        placed[mask] = rows
        feeds = {names.TOKEN_IDS: ids[None], names.VISION_MASK: mask[None], names.IMAGE_EMBEDDINGS: placed[None]}
        outputs = forward.run(names.PREFILL_IMAGES, feeds)
        layers = range(len(outputs) // 2)
        return [outputs[f"{part}.{layer}"][0] for layer in layers for part in (names.KEYS, names.VALUES)]
