"""What the original's vision tower gives for some images, for the proof of the signature `vision`."""

from __future__ import annotations

import numpy as np
from kexport.converter.parity.cases import SEED
from kexport.converter.parity.forward import Answer
from kexport.converter.parity.oracle import Oracle
from kexport.runtime.contract import names

IMAGES = 2


def ask_vision(oracle: Oracle) -> list[Answer]:
    """Nothing where no artifact takes images."""
    record = oracle.images
    if record is None:
        return []
    pixels = np.random.default_rng(SEED).normal(0, 1, (IMAGES, record.height, record.width, record.channels)).astype(np.float32)
    feeds = {names.PIXEL_VALUES: pixels}
    return [Answer(names.VISION, feeds, oracle.forward(names.VISION, feeds))]
