"""The largest difference between the interpreter's logits and the original's. Imports Keras through its callers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from kexport.graphs.ir import Graph
from kexport.graphs.weights import WeightSource

from tests import stock_models
from tests.greedy import Session
from tests.seed_models import SeedModel


def interpreter_logits(model: SeedModel, graphs: Mapping[str, Graph], weights: WeightSource, tokens: Any) -> Any:
    """Logits [rows, length, vocabulary], token by token: the form in which rounding adds up most."""
    encoder = model.encoder_prompts if "encode" in graphs else None
    session = Session(graphs, weights, len(tokens), tokens.shape[1], encoder)
    return np.stack([session.extend(column[:, None].tolist()) for column in tokens.T], axis=1)


def logit_error(task: Any, model: SeedModel, graphs: Mapping[str, Graph], weights: WeightSource, tokens: Any) -> float:
    """max |interpreter - original| over all positions of the rows."""
    return float(np.abs(interpreter_logits(model, graphs, weights, tokens) - stock_models.logits_of(task, model, tokens)).max())
