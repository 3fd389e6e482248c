"""What a model of the zoo is: a configuration of a family's stock task, small, with numbers that do not repeat themselves. No Keras at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

VOCABULARY = 96


@dataclass(frozen=True)
class Variant:
    """A configuration of a family's backbone. `prefix` and `task` name the stock classes; `spread`: the standard deviation of matrices;
    `norms`: added to the scales of norms, where a layer would else give too little beside a token's own embedding, which a tied head takes for the next token.
    `scores`: whether the original's uncached forward may be captured; `shows_layers`: whether it gives one tensor a layer; `contradicts`: whether calling the original gives
    other logits than its own loop."""

    family: str
    prefix: str
    config: dict[str, Any]
    spread: float = 0.4
    norms: float = 0.0
    seed: int = 0
    task: str = "CausalLM"
    scores: bool = True
    shows_layers: bool = True
    contradicts: bool = False

    @property
    def layers(self) -> int:
        """How many attention and recurrent layers the artifact records."""
        return int(self.config["num_layers"])

    @property
    def mixtures(self) -> int:
        """How many mixtures of experts the artifact records: one a layer, or none."""
        return int(self.config["num_layers"]) if self.config.get("num_experts") else 0

    def stock(self) -> Any:
        """The stock task as Keras initialises it, float32, without a preprocessor."""
        import keras_hub

        backbone = getattr(keras_hub.models, f"{self.prefix}Backbone")(**self.config, dtype="float32")
        return getattr(keras_hub.models, f"{self.prefix}{self.task}")(backbone=backbone, preprocessor=None)

    def build(self) -> Any:
        """The stock task with this variant's numbers in its matrices."""
        import keras

        keras.utils.set_random_seed(self.seed)
        task = self.stock()
        generator = np.random.default_rng(self.seed)
        for variable in task.variables:
            if len(variable.shape) > 1 and str(variable.dtype).startswith("float"):
                variable.assign(generator.normal(0, self.spread, variable.shape).astype(np.float32))
            elif self.norms and variable.path.endswith("/scale"):
                variable.assign(variable + self.norms)
        return task
