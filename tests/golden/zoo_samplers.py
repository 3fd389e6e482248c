"""What KerasHub's samplers give for each model of the zoo, for ragged ids and for texts: where the golden files are, what was asked, and what is left out and
why. No Keras.

Contrastive search needs an artifact with hidden states, and texts need a tokenizer: both are there for the first model of each class (tests/text_zoo.py).
Greedy tokens of the others are what the gate compares.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.text_zoo import SPEAKING
from tests.zoo import ZOO

FOLDER = Path(__file__).parent / "zoo"
LENGTH, TEXT_LENGTH = 22, 28
PROMPT_LENGTHS, ENCODER_LENGTHS = (6, 3, 9), (5, 8, 2)
TEXTS = ["The quick brown fox", "In 1984,", "I want to say that this is, after all,"]
# Of the tokens a batch's rows gain: a model that repeats itself proves nothing. Beams, which look for likely rows, repeat themselves more.
LEAST_DISTINCT, LEAST_DISTINCT_OF_BEAMS = 10, 6
SPEAKING_ONLY = ("GreedySampler", "ContrastiveSampler")
SAMPLERS: dict[str, dict[str, Any]] = {
    "GreedySampler": {},
    "RandomSampler": {"temperature": 0.8},
    "TopKSampler": {"k": 4},
    "TopPSampler": {"p": 0.8},
    "BeamSampler": {"num_beams": 3},
    "ContrastiveSampler": {"k": 4, "alpha": 0.6},
}
# Of models with a tokenizer, in place of the above. A nucleus of a vocabulary of hundreds has neighbours so near that rounding may swap any two.
SPEAKING_SAMPLERS: dict[str, dict[str, Any]] = {"TopPSampler": {"p": 0.8, "k": 12}}
_PADDING = "KerasHub's call_with_cache takes a padding mask of the prompts' rows, which {} outnumber"
_ENCODER = "KerasHub's {} of several rows do not take the rows' encoder output along"
_ARGUMENTS = "KerasHub's generate_step passes the sampler an argument that {} does not take"
# What the original itself cannot run, by family and sampler.
REFUSED = {
    ("gemma3", "BeamSampler"): _PADDING.format("beams"),
    ("gemma3n", "BeamSampler"): _PADDING.format("beams"),
    ("gemma4", "BeamSampler"): _ARGUMENTS.format("BeamSampler"),
    ("gemma3", "ContrastiveSampler"): _PADDING.format("candidates"),
    ("gemma3n", "ContrastiveSampler"): _PADDING.format("candidates"),
    ("gemma4", "ContrastiveSampler"): _ARGUMENTS.format("ContrastiveSampler"),
    ("t5gemma", "BeamSampler"): _ENCODER.format("beams"),
    ("t5gemma2", "BeamSampler"): _ENCODER.format("beams"),
    ("rwkv7", "ContrastiveSampler"): "KerasHub runs it only where the buffer is as long as the prompts' table: tests/converter/test_split_prompts.py compares that",
    ("t5gemma", "ContrastiveSampler"): _ENCODER.format("candidates"),
    ("t5gemma2", "ContrastiveSampler"): _ENCODER.format("candidates"),
}

# What proves nothing, by model and sampler: no numbers and no seeds that were tried give rows of many different tokens, clear of other outcomes.
UNFIT: set[tuple[str, str]] = set()


def path_of(name: str) -> Path:
    """The golden file of a model of the zoo."""
    return FOLDER / f"{re.sub(r'[^a-z0-9.]+', '_', name)}.json"


def golden(name: str) -> dict[str, Any]:
    """Its content."""
    document: dict[str, Any] = json.loads(path_of(name).read_text(encoding="utf-8"))
    return document


def distinct(table: list[list[int]], prompts: Any) -> int:
    """How many different tokens the rows gain."""
    return len({token for row, prompt in zip(table, prompts, strict=True) for token in row[len(prompt) :]})


def least_distinct(sampler: str) -> int:
    """How many there must be."""
    return LEAST_DISTINCT_OF_BEAMS if sampler == "BeamSampler" else LEAST_DISTINCT


def considered(name: str) -> list[str]:
    """The samplers that are asked for or whose refusal is seen."""
    return [sampler for sampler in SAMPLERS if (name in SPEAKING or sampler not in SPEAKING_ONLY) and (name, sampler) not in UNFIT]


def config_of(name: str, sampler: str) -> dict[str, Any]:
    """A sampler's config for the model, before anything is searched."""
    return SPEAKING_SAMPLERS.get(sampler, SAMPLERS[sampler]) if name in SPEAKING else SAMPLERS[sampler]


def asked(name: str) -> dict[str, dict[str, Any]]:
    """The samplers that are compared for the model, without seeds."""
    return {sampler: config_of(name, sampler) for sampler in considered(name) if (ZOO[name].family, sampler) not in REFUSED}
