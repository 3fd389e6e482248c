"""Find seeds and spreads that make a test model fit for comparing tokens: see `check_margins`.

    python -m tests.golden.search_seeds [NAME ...]

Prints one line a model; copy them into tests/seed_models.py. The interpreter generates; the margin is measured against stock.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys

import numpy as np
from kexport.graphs.capture import capture
from kexport.graphs.ir import Graph

from tests import stock_models
from tests.golden.measure import logit_error
from tests.greedy import greedy
from tests.seed_models import DISTINCT, MARGIN, MAX_LENGTH, MODELS, NEW_TOKENS, SPREADS, SeededWeights, SeedModel

TRIED = {
    "bloom": ["recent", "recent, wide"],
    "bart": ["placed", "placed, quiet"],
}
SEEDS = range(400)
QUICK_DISTINCT = 14  # of the prompt and half of the new tokens
LIKELY_ERROR = 3e-6  # smaller gaps than MARGIN times this are not worth measuring


def candidates(model: SeedModel, graphs: dict[str, Graph]) -> SeedModel:
    """The first fit variant of `model`."""
    task = stock_models.bare(model)
    spreads = TRIED.get(model.family, [name for name, spread in SPREADS.items() if not spread.balanced])
    for seed, spread in itertools.product(SEEDS, spreads):
        one = dataclasses.replace(model, seed=seed, spread=spread)
        weights = SeededWeights(one, graphs)
        encoder = one.encoder_prompts if "encode" in graphs else None
        quick = greedy(graphs, weights, one.prompts, max(map(len, one.prompts)) + NEW_TOKENS // 2, encoder_prompts=encoder)
        if min(len(set(row)) for row in quick.tokens) < QUICK_DISTINCT or min(quick.gaps) < MARGIN * LIKELY_ERROR:
            continue
        result = greedy(graphs, weights, one.prompts, MAX_LENGTH, encoder_prompts=encoder)
        if min(len(set(row[-NEW_TOKENS:])) for row in result.tokens) < DISTINCT or min(result.gaps) < MARGIN * LIKELY_ERROR:
            continue
        stock_models.fill(task, one)
        error = logit_error(task, one, graphs, weights, np.array(result.tokens))
        distinct = min(len(set(row[-NEW_TOKENS:])) for row in result.tokens)
        print(
            f"#   {one.name}: seed {seed} {spread}: {distinct} distinct, gap {min(result.gaps):.3g}, error {error:.3g}",
            flush=True,
        )
        if min(result.gaps) >= MARGIN * error * 1.5:
            return one
    raise SystemExit(f"no fit seed for {model.name}")


def main(names: list[str]) -> None:
    """Search for the named models, all by default."""
    for name in names or list(MODELS):
        task = stock_models.bare(MODELS[name])
        found = candidates(MODELS[name], capture(task).graphs)
        print(f'{name}: {found.seed}, "{found.spread}"', flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
