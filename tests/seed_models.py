"""The tiny test models of the seed families: their configs, their weights from a formula, and their golden files. No Keras here.

    golden = load_golden("mistral")
    golden.graphs["extend"]      captured from stock KerasHub, cleaned, as committed
    golden.weights               a WeightSource: the numbers the original had when the golden tokens were made
    golden.tokens                rows of KerasHub's `generate()`, greedy, whole rows of `max_length`

A model is fit for comparing tokens only if rounding cannot turn one: `load_golden` holds each to the margins below.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from kexport.graphs.ir import Graph
from kexport.graphs.serialize import graph_of
from kexport.runtime.contract.dtypes import numpy_dtype

GOLDEN = Path(__file__).with_name("golden")
VOCABULARY = 112
PROMPT_LENGTHS = (5, 9, 3)
ENCODER_LENGTHS = (7, 4, 6)
NEW_TOKENS = 64
MAX_LENGTH = max(PROMPT_LENGTHS) + NEW_TOKENS
# What makes a model fit: so many different tokens among a row's last 64, and the smallest distance between the best and the
# second-best logit at least so many times the largest logit error of the interpreter against the original.
DISTINCT = 20
MARGIN = 100.0
ONES = ("scale", "gamma")  # vectors around 1; other vectors lie around 0


@dataclass(frozen=True)
class Spread:
    """How wide numbers are drawn. `matrices`: (part of a parameter's name, standard deviation), the first that fits.

    `balanced`: kernels [in, out] get columns of sum 0, so that the mean of an activation does not drown the rest, and embeddings rows of
    equal length, so that no token is always likeliest. Without it models with biases and gelu repeat one token.
    """

    matrices: tuple[tuple[str, float], ...]
    vectors: float = 0.3
    balanced: bool = False


SPREADS: dict[str, Spread] = {
    "even": Spread((("", 0.5),)),
    "small embedding": Spread((("embedding", 0.3), ("", 0.5))),
    "large embedding": Spread((("embedding", 0.6), ("", 0.4))),
    "larger embedding": Spread((("embedding", 1.0), ("", 0.6))),
    "tiny embedding": Spread((("embedding", 0.1), ("", 0.5))),
    "tiny embedding, small matrices": Spread((("embedding", 0.1), ("", 0.3))),
    "tiniest embedding": Spread((("embedding", 0.05), ("", 0.3))),
    "large kernels": Spread((("embedding", 0.5), ("", 0.7))),
    "recent": Spread((("query", 0.35), ("key", 0.35), ("embedding", 0.5), ("value", 0.5), ("output_dense", 0.5), ("", 1.0)), 0.1, True),
    "recent, wide": Spread((("query", 0.35), ("key", 0.35), ("embedding", 0.5), ("value", 0.5), ("output_dense", 0.5), ("", 2.5)), 0.1, True),
    "placed": Spread((("attention_output", 0.1), ("feedforward", 0.6), ("", 0.5)), 0.1, True),
    "placed, quiet": Spread((("attention_output", 0.05), ("position", 1.0), ("feedforward", 0.4), ("", 0.5)), 0.1, True),
}


@dataclass(frozen=True)
class SeedModel:
    """One model: `config` goes to the family's backbone; weights follow from `seed` and `spread`.

    `stored_dtype`: the dtype of the preset the original is loaded from; its numbers are rounded to it.
    """

    name: str
    family: str
    config: dict[str, Any] = field(hash=False)
    seed: int
    spread: str
    stored_dtype: str = "float32"

    @property
    def prompts(self) -> list[list[int]]:
        """Three rows of different lengths; id 0 is padding and not among them."""
        return _rows(self.name, PROMPT_LENGTHS)

    @property
    def encoder_prompts(self) -> list[list[int]]:
        """For encoder-decoder models."""
        return _rows(f"{self.name} encoder", ENCODER_LENGTHS)

    def number_array(self, name: str, shape: tuple[int, ...]) -> Any:
        """The float32 numbers of a parameter: normal draws fixed by the model's seed and the parameter's name."""
        generator = np.random.default_rng([zlib.crc32(name.encode()), self.seed])
        draw, spread = generator.standard_normal(shape), SPREADS[self.spread]
        if len(shape) == 1:
            numbers = spread.vectors * draw + (1 if name.endswith(ONES) else 0)
        else:
            if spread.balanced and "embedding" in name:
                draw *= np.sqrt(shape[1]) / np.linalg.norm(draw, axis=1, keepdims=True)
            elif spread.balanced and len(shape) == 2:
                draw -= draw.mean(axis=0)
            numbers = next(width for part, width in spread.matrices if part in name) * draw
        return numbers.astype(np.float32).astype(numpy_dtype(self.stored_dtype)).astype(np.float32)


def _rows(name: str, lengths: tuple[int, ...]) -> list[list[int]]:
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return [generator.integers(1, VOCABULARY, length).tolist() for length in lengths]


class SeededWeights:
    """A WeightSource: the model's numbers for every parameter of the graphs."""

    def __init__(self, model: SeedModel, graphs: Mapping[str, Graph]) -> None:
        self._model = model
        parameters = [p for graph in graphs.values() for weight in graph.weights.values() for p in weight.parameters()]
        self._shapes = {parameter.name: parameter.shape for parameter in parameters}
        self._read = functools.cache(lambda name: model.number_array(name, self._shapes[name]))

    def read(self, name: str) -> Any:
        """float32."""
        return self._read(name)


@dataclass(frozen=True)
class Golden:
    """A golden file. Token rows are whole rows of `max_length`; `stop_masks` are True up to the stop token."""

    model: SeedModel
    graphs: dict[str, Graph]
    weights: SeededWeights
    tokens: list[list[int]]
    stop_token_ids: tuple[int, ...]
    stop_tokens: list[list[int]]
    stop_masks: list[list[bool]]
    logit_error: float
    smallest_gap: float


def load_golden(name: str) -> Golden:
    """Read and check a golden file; graphs are fresh copies that a test may edit."""
    golden = _load(name)
    return Golden(**{**vars(golden), "graphs": {key: graph.copy() for key, graph in golden.graphs.items()}})


@functools.cache
def _load(name: str) -> Golden:
    document = json.loads((GOLDEN / f"{name}.json").read_text())
    model = MODELS[name]
    assert document["model"] == model_document(model), f"the golden file of {name} was made from another config or seed: write it again"
    graphs = {key: graph_of(value) for key, value in document["graphs"].items()}
    stop = document["with_stop"]
    check_margins(name, document["tokens"], document["logit_error"], document["smallest_gap"])
    return Golden(
        model, graphs, SeededWeights(model, graphs), document["tokens"], tuple(stop["stop_token_ids"]), stop["tokens"],
        [[bool(flag) for flag in row] for row in stop["masks"]], document["logit_error"], document["smallest_gap"],
    )  # fmt: skip


def check_margins(name: str, tokens: list[list[int]], logit_error: float, smallest_gap: float) -> None:
    """A model whose rows repeat, or whose best two logits come close, proves nothing."""
    for row in tokens:
        assert len(set(row[-NEW_TOKENS:])) >= DISTINCT, f"{name}: a row has {len(set(row[-NEW_TOKENS:]))} distinct tokens of {NEW_TOKENS}"
    assert smallest_gap >= MARGIN * logit_error > 0, f"{name}: the smallest gap {smallest_gap:.3g} is below {MARGIN:g} x {logit_error:.3g}"


def model_document(model: SeedModel) -> dict[str, Any]:
    """What a golden file says of its model."""
    return {
        "name": model.name, "family": model.family, "config": model.config, "seed": model.seed, "spread": model.spread,
        "stored_dtype": model.stored_dtype,
    }  # fmt: skip


def padded(rows: list[list[int]], length: int) -> tuple[Any, Any]:
    """int32 ids and bool mask [rows, length], padded with 0 on the right."""
    ids, mask = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, True
    return ids, mask


_MISTRAL = {
    "vocabulary_size": VOCABULARY, "num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 32, "intermediate_dim": 48,
    "sliding_window": 24,
}  # fmt: skip
_GEMMA = {
    "vocabulary_size": VOCABULARY, "num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 4, "hidden_dim": 32, "intermediate_dim": 96,
    "head_dim": 8,
}  # fmt: skip
_GEMMA2 = _GEMMA | {
    "num_layers": 3, "num_key_value_heads": 2, "head_dim": 16, "use_post_ffw_norm": True, "use_post_attention_norm": True,
    "attention_logit_soft_cap": 5.0, "final_logit_soft_cap": 3.0, "use_sliding_window_attention": True, "sliding_window_size": 6,
}  # fmt: skip
_BLOOM = {"vocabulary_size": VOCABULARY, "num_layers": 3, "num_heads": 8, "hidden_dim": 32, "intermediate_dim": 64}
_BART = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 32,
    "intermediate_dim": 64,
    "max_sequence_length": 96,
}

# Seeds and spreads were found by tests/golden/search_seeds.py: the first that meet the margins.
_ALL = [
    SeedModel("mistral", "mistral", _MISTRAL, 0, "even"),
    SeedModel("mistral_one_kv_head", "mistral", _MISTRAL | {"num_key_value_heads": 1}, 1, "even"),
    SeedModel("mistral_all_kv_heads", "mistral", _MISTRAL | {"num_key_value_heads": 4}, 0, "larger embedding"),
    SeedModel("mistral_head_dim", "mistral", _MISTRAL | {"head_dim": 12}, 0, "even"),
    SeedModel("mistral_rope_scaled", "mistral", _MISTRAL | {"rope_scaling_factor": 2.0, "rope_max_wavelength": 1000}, 0, "large embedding"),
    SeedModel("mistral_short_window", "mistral", _MISTRAL | {"sliding_window": 3, "num_layers": 3}, 1, "large kernels"),
    SeedModel("mistral_float16", "mistral", _MISTRAL, 0, "large embedding", "float16"),
    SeedModel("mistral_bfloat16", "mistral", _MISTRAL, 0, "large embedding", "bfloat16"),
    SeedModel("gemma", "gemma", _GEMMA, 6, "even"),
    SeedModel("gemma_multi_query", "gemma", _GEMMA | {"num_key_value_heads": 1, "head_dim": 24}, 2, "large embedding"),
    SeedModel("gemma_head_dim_80", "gemma", _GEMMA | {"num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 80}, 13, "larger embedding"),
    SeedModel("gemma_bfloat16", "gemma", _GEMMA | {"num_key_value_heads": 1, "head_dim": 16}, 21, "large embedding", "bfloat16"),
    SeedModel("gemma2", "gemma", _GEMMA2, 9, "tiniest embedding"),
    # KerasHub 0.32 ignores this option (its decoder block passes True): the graph must do as the original does, not as its config says.
    SeedModel("gemma2_hidden_scale", "gemma", _GEMMA2 | {"query_head_dim_normalize": False, "num_key_value_heads": 4}, 6, "tiny embedding"),
    SeedModel("bloom", "bloom", _BLOOM, 32, "recent, wide"),
    SeedModel("bloom_six_heads", "bloom", _BLOOM | {"num_heads": 6, "hidden_dim": 36}, 7, "recent, wide"),
    SeedModel("bloom_float16", "bloom", _BLOOM | {"intermediate_dim": 80}, 15, "recent, wide", "float16"),
    SeedModel("bart", "bart", _BART, 54, "placed, quiet"),
    SeedModel("bart_two_heads", "bart", _BART | {"num_heads": 2, "num_layers": 3, "hidden_dim": 24}, 28, "placed, quiet"),
]
MODELS = {model.name: model for model in _ALL}
