"""Families that take images beside text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.zoo.variant import VOCABULARY, Variant


@dataclass(frozen=True)
class WithVision(Variant):
    """A variant with a vision tower. `vision`: the configuration of the tower, an instance of the stock class `vision_class`."""

    vision: dict[str, Any] = field(default_factory=dict)
    vision_class: str = ""

    def stock(self) -> Any:
        """The stock task with its tower, without a preprocessor."""
        import keras_hub

        models = keras_hub.models
        tower = getattr(models, self.vision_class)(**self.vision, dtype="float32")
        backbone = getattr(models, f"{self.prefix}Backbone")(**self.config, vision_encoder=tower, dtype="float32")
        return getattr(models, f"{self.prefix}{self.task}")(backbone=backbone, preprocessor=None)


GEMMA3_TOKENS = 4  # of one image: 4 x 4 patches, pooled 2 x 2
GEMMA3_VISION = {
    "image_size": 16, "patch_size": 4, "pool_size": 2, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "output_dim": 32,
}  # fmt: skip
GEMMA3 = {
    "vocabulary_size": VOCABULARY, "image_size": 16, "num_layers": 7, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32,
    "intermediate_dim": 48, "head_dim": 16, "use_query_key_norm": True, "sliding_window_size": 7, "local_rope_scaling_factor": 1.0,
    "global_rope_scaling_factor": 8.0, "use_sliding_window_attention": True,
}  # fmt: skip

VARIANTS: dict[str, Variant] = {
    "gemma3, images": WithVision("gemma3", "Gemma3", GEMMA3, seed=1, vision=GEMMA3_VISION, vision_class="Gemma3VisionEncoder"),
    "gemma3, images, odd heads": WithVision(
        "gemma3", "Gemma3",
        {**GEMMA3, "num_key_value_heads": 1, "head_dim": 12, "sliding_window_size": 4, "image_size": 12}, 0.6,
        vision={**GEMMA3_VISION, "image_size": 12, "patch_size": 3, "num_heads": 1}, vision_class="Gemma3VisionEncoder",
    ),
}  # fmt: skip
