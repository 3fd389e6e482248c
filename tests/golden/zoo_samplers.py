"""What KerasHub's samplers give for each model of the zoo: where the golden files are, what was asked, and what is left out and why. No Keras.

Contrastive search needs an artifact with hidden states, another one than the gate proves: the rule is that it is compared for the seed families, in
tests/parity/test_samplers.py, and not here. Greedy is what the gate compares.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.zoo import ZOO

FOLDER = Path(__file__).parent / "zoo"
LENGTH = 22
PROMPT_LENGTHS, ENCODER_LENGTHS = (6, 3, 9), (5, 8, 2)
# Of the tokens a batch's rows gain: a model that repeats itself proves nothing. Beams, which look for likely rows, repeat themselves more.
LEAST_DISTINCT, LEAST_DISTINCT_OF_BEAMS = 10, 6
SAMPLERS: dict[str, dict[str, Any]] = {
    "RandomSampler": {"temperature": 0.8},
    "TopKSampler": {"k": 4},
    "TopPSampler": {"p": 0.8},
    "BeamSampler": {"num_beams": 3},
}
_BEAMS_PADDING = "KerasHub's call_with_cache takes a padding mask of the prompts' rows, which beams outnumber"
_BEAMS_ENCODER = "KerasHub's beams of several rows do not take the rows' encoder output along"
_BEAMS_ARGUMENTS = "KerasHub's generate_step passes the sampler an argument that BeamSampler does not take"
# What the original itself cannot run, by family and sampler.
REFUSED = {
    ("gemma3", "BeamSampler"): _BEAMS_PADDING,
    ("gemma3n", "BeamSampler"): _BEAMS_PADDING,
    ("gemma4", "BeamSampler"): _BEAMS_ARGUMENTS,
    ("t5gemma", "BeamSampler"): _BEAMS_ENCODER,
    ("t5gemma2", "BeamSampler"): _BEAMS_ENCODER,
}

# What proves nothing, by model and sampler: no seed at any temperature gives rows of many different tokens whose draws are clear of other outcomes.
UNFIT = {("gemma4", "TopPSampler")}


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


def asked(name: str) -> dict[str, dict[str, Any]]:
    """The samplers that are compared for the model, without seeds."""
    return {sampler: config for sampler, config in SAMPLERS.items() if (ZOO[name].family, sampler) not in REFUSED and (name, sampler) not in UNFIT}
