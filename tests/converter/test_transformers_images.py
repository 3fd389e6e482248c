"""Gemma 3 with its vision tower from a directory in the transformers layout: KerasHub's converter is recorded, and prompts with images are proven."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.converter.conversion import convert

from tests.converter.transformers_checkpoints import CONFIGS

pytestmark = pytest.mark.slow
VISION, INNER, PATCH, IMAGE, CHANNELS = 16, 24, 4, 32, 3  # an image is 8 x 8 patches; KerasHub pools 4 x 4 of them: 4 tokens
PATCHES = (IMAGE // PATCH) ** 2
CONFIG = {
    "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {**CONFIGS["gemma3_text"], "model_type": "gemma3_text"},
    "vision_config": {
        "image_size": IMAGE, "patch_size": PATCH, "num_attention_heads": 2, "hidden_size": VISION, "num_hidden_layers": 2, "intermediate_size": INNER,
    },
}  # fmt: skip


def _shape(name: str, hidden: int) -> tuple[int, ...] | None:
    """The shape of a tensor of the tower, as transformers keeps it: products [out, in], kernels [out, in, height, width]; None for the text model's."""
    rules = {
        r"patch_embedding\.weight": (VISION, CHANNELS, PATCH, PATCH), r"position_embedding\.weight": (PATCHES, VISION), r"fc1\.weight": (INNER, VISION),
        r"fc1\.bias": (INNER,), r"fc2\.weight": (VISION, INNER), r"(q|k|v|out)_proj\.weight": (VISION, VISION), r"mm_input_projection_weight": (VISION, hidden),
        r"(weight|bias)": (VISION,),
    }  # fmt: skip
    if "vision" not in name and "multi_modal" not in name:
        return None
    return next(shape for end, shape in rules.items() if re.search(rf"{end}$", name))


class _Names:
    """Stands in for KerasHub's reader of tensors: gives zeros and notes the names with their shapes."""

    safetensor_config = None  # a single file

    def __init__(self, text: Any, hidden: int) -> None:
        self._text, self._hidden = text, hidden
        self.tower: dict[str, tuple[int, ...]] = {}

    def get_tensor(self, hf_weight_key: str) -> Any:
        shape = _shape(hf_weight_key, self._hidden)
        if shape is None:
            return self._text.get_tensor(hf_weight_key)
        self.tower[hf_weight_key] = shape
        return np.zeros(shape, np.float32)

    def port_weight(self, keras_variable: Any, hf_weight_key: str, hook_fn: Any = None) -> None:
        tensor = self.get_tensor(hf_weight_key)
        keras_variable.assign(hook_fn(tensor, list(keras_variable.shape)) if hook_fn else tensor)


def write(folder: Path) -> None:
    """config.json and model.safetensors with random numbers."""
    from keras_hub.src.models.backbone import Backbone
    from keras_hub.src.utils.preset_utils import get_preset_loader
    from safetensors.numpy import save_file

    from tests.converter.transformers_checkpoints import _SIZES, _NamesOnly

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    text_config: Any = CONFIG["text_config"]
    names = _Names(_NamesOnly({**_SIZES, **text_config}), text_config["hidden_size"])
    get_preset_loader(str(folder)).converter.convert_weights(Backbone.from_preset(str(folder), load_weights=False), names, CONFIG)
    generator = np.random.default_rng(0)
    shapes = {**names._text.shapes, **names.tower}
    save_file({name: generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}, folder / "model.safetensors")


def test_a_directory_with_a_tower_converts_and_is_proven(tmp_path: Path) -> None:
    """The tower's weights, kernels included, come lazily through KerasHub's converter; tokens of prompts with images are equal."""
    write(tmp_path / "checkpoint")
    artifact = convert(tmp_path / "checkpoint", output=tmp_path / "out", max_length=40)
    parity = artifact.manifest.parity
    assert (parity.verdict, parity.near_ties) == ("proven", 0)
    assert {"images in a ragged batch", "one image"} <= {case.name for case in parity.cases}
    assert parity.max_logit_difference["vision"] < 1e-4
    assert artifact.manifest.images is not None and artifact.manifest.images.tokens == 4
