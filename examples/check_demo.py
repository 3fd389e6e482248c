"""Measure the demo model: has it learned, and does what it writes read like language?

    python examples/check_demo.py                 # prints the measures as JSON; exit code 1 if one misses its bar

1. *Held-out loss*, nats per token, on stories the training never saw, against the best unigram model of those same tokens.
2. *Greedy text*: 200 tokens after each fixed prompt, through KerasHub's own `generate()`; how many are distinct, how many of their 4-grams, and the
   smallest gap between the two largest logits on the way (a small gap is a place where rounding could change the token).
3. The same for seeded top-k sampling, without the gap.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from stories import sentences, tales
from text_measures import Ids, distinct_share, pack_rows, top_two_gaps, unigram_loss
from train_demo import TRAINING_STORIES

if TYPE_CHECKING:
    import keras_hub

PRESET = Path(__file__).parent / "demo_preset"
HELD_OUT_FIRST = 1_000_000  # story numbers; training starts at 0
HELD_OUT_STORIES = 100
ROW_LENGTH = 256
BATCH_SIZE = 16
NEW_TOKENS = 200
GRAM = 4
SEED = 11
PROMPTS = (
    "Once upon a time there lived",
    "In Alderbrook there was once a poor weaver called",
    "One night the wind knocked at the door, and",
    "The fox looked at the moon.",
)
BARS = {"loss_below_unigram": 0.40, "distinct_tokens": 60, "distinct_4_grams": 0.6}


@click.command()
@click.option("--preset", type=click.Path(path_type=Path, exists=True), default=PRESET, show_default=True, help="The preset to measure.")
@click.option("--show-text", is_flag=True, help="Print what the model wrote, on standard error.")
def main(preset: Path, show_text: bool) -> None:
    """Measure the demo model against its bars."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_hub

    task = keras_hub.models.CausalLM.from_preset(str(preset))
    report: dict[str, Any] = {"parameters": task.count_params(), "held_out": held_out(task)}
    for sampler in ("greedy", "top_k"):
        report[sampler] = [continuation(task, prompt, sampler, show_text) for prompt in PROMPTS]
    report["bars"] = BARS
    report["missed"] = missed(report)
    click.echo(json.dumps(report, indent=2))
    sys.exit(1 if report["missed"] else 0)


def held_out(task: keras_hub.models.CausalLM) -> dict[str, float]:
    """Return the loss of the model and of the unigram baseline on the same held-out target tokens."""
    tokenizer = task.preprocessor.tokenizer
    stories = [tokenizer(story) for story in tales(HELD_OUT_STORIES, first=HELD_OUT_FIRST)]
    rows = pack_rows(stories, ROW_LENGTH, tokenizer.start_token_id, tokenizer.end_token_id)
    loss = mean_loss(task, rows)
    baseline = unigram_loss(rows[:, 1:])
    return {
        "tokens": rows[:, 1:].size,
        "loss": loss,
        "unigram_loss": baseline,
        "loss_below_unigram": 1 - loss / baseline,
        "sentences_seen_in_training": sentences_seen(),
    }


def sentences_seen() -> float:
    """Return the share of held-out sentences that the training had word for word: all held-out stories are new, most of their sentences are not."""
    seen = {sentence for story in tales(TRAINING_STORIES) for sentence in sentences(story)}
    held = [sentence for story in tales(HELD_OUT_STORIES, first=HELD_OUT_FIRST) for sentence in sentences(story)]
    return float(np.mean([sentence in seen for sentence in held]))


def mean_loss(task: keras_hub.models.CausalLM, rows: Ids) -> float:
    """Return the mean negative log likelihood, nats per token, of the targets in `rows` `[rows, length + 1]`."""
    total = 0.0
    for first in range(0, len(rows), BATCH_SIZE):
        batch = rows[first : first + BATCH_SIZE]
        ones = np.ones_like(batch[:, :-1])
        total += float(np.sum(task.score(batch[:, :-1], padding_mask=ones, scoring_mode="loss", target_ids=batch[:, 1:])))
    return total / rows[:, 1:].size


def continuation(task: keras_hub.models.CausalLM, prompt: str, sampler: str, show_text: bool) -> dict[str, Any]:
    """Continue `prompt` by `NEW_TOKENS` tokens and measure them."""
    import keras_hub

    tokenizer = task.preprocessor.tokenizer
    task.compile(sampler=keras_hub.samplers.TopKSampler(k=5, seed=SEED) if sampler == "top_k" else sampler)
    length = 1 + len(tokenizer(prompt))
    inputs = task.preprocessor.generate_preprocess([prompt], sequence_length=length + NEW_TOKENS)
    generate = task.make_generate_function()
    ids = np.asarray(generate(inputs, stop_token_ids=None)["token_ids"])[0]
    new = ids[length:].tolist()
    measures: dict[str, Any] = {
        "prompt": prompt,
        "distinct_tokens": len(set(new)),
        "distinct_4_grams": distinct_share(new, GRAM),
        "ends_at": new.index(tokenizer.end_token_id) if tokenizer.end_token_id in new else None,
    }
    if sampler == "greedy":
        logits = np.asarray(task.score(ids[None, :-1], scoring_mode="logits"))[0, length - 1 :]
        measures["smallest_top_2_gap"] = float(top_two_gaps(logits).min())
    if show_text:
        click.echo(f"--- {sampler}: {prompt}\n{tokenizer.detokenize(ids[1:].tolist())}\n", err=True)
    return measures


def missed(report: dict[str, Any]) -> list[str]:
    """Return the measures that are below their bar."""
    values = {("held_out", "loss_below_unigram"): report["held_out"]["loss_below_unigram"]}
    for sampler in ("greedy", "top_k"):
        for measures in report[sampler]:
            values |= {(f"{sampler} {measures['prompt']}", name): measures[name] for name in ("distinct_tokens", "distinct_4_grams")}
    return [f"{where}: {name} is {value}" for (where, name), value in values.items() if value < BARS[name]]


if __name__ == "__main__":
    main()
