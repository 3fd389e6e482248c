"""Write or check the golden files of the zoo: seeded tokens of KerasHub's own `generate()` for ragged ids, by model and sampler.

    python -m tests.golden.write_zoo_samplers [NAME ...]            write (all by default)
    python -m tests.golden.write_zoo_samplers --check --part 2/5    make every fifth model's file again and fail on any difference
    python -m tests.golden.write_zoo_samplers --check --part commit a fifth that rotates with the number of commits

Seeds are searched, when files are written, so that no draw lies near another outcome (see `LEAST_GAP`): rounding may move it there, in KerasHub itself from one machine to
the next; and so that the rows gain many different tokens, at a higher temperature where the model repeats itself. What the original refuses must be in the table of zoo_samplers.py, and the other way round.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import tensorflow as tf
from kexport.converter.parity.cases import Case, generate_inputs, generated_rows
from kexport.converter.parity.oracle import LoadedOracle
from kexport.converter.parity.picks import SeededPick
from kexport.graphs.capture.semantics import semantics_of
from kexport.runtime.contract.manifest import Rng

from tests.golden import command
from tests.golden.zoo_samplers import (
    ENCODER_LENGTHS,
    FOLDER,
    LEAST_DISTINCT,
    LENGTH,
    PROMPT_LENGTHS,
    REFUSED,
    SAMPLERS,
    UNFIT,
    distinct,
    golden,
    path_of,
)
from tests.zoo import ZOO
from tests.zoo.variant import VOCABULARY

PAD = 0
PARTS = 5
SEEDS = range(1, 25)
HIGHER_TEMPERATURES = (1.5, 2.0, 3.0, 4.0, 6.0)  # for models that repeat themselves at the sampler's own
LEAST_GAP = 1e-5  # of each draw, as a share of the spread of its logits: a step of the distribution that far away is out of reach of rounding


def case_of(name: str, task: Any) -> Case:
    """Ragged ids."""
    generator = np.random.default_rng(len(name))
    original = semantics_of(task)
    prompts, encoder = (
        tuple(tuple(generator.integers(1, VOCABULARY, length).tolist()) for length in lengths) for lengths in (PROMPT_LENGTHS, ENCODER_LENGTHS)
    )
    is_seq2seq = ZOO[name].task == "Seq2SeqLM"
    split = original.prompt == "split"
    return Case(
        name, prompts, LENGTH, encoder if is_seq2seq else (), schedule=original.schedule, prefill=original.prefill, split=split
    )  # fmt: skip


def run(oracle: LoadedOracle, case: Case, sampler: str, known: dict[str, Any] | None) -> dict[str, Any]:
    """The sampler's config, with its seed if it draws, and its tokens. `known`: the config of the committed file, to be used again.

    Raises:
        AssertionError: no seed keeps its draws clear of other outcomes.
    """
    config = known or SAMPLERS[sampler]
    if known or sampler == "BeamSampler":
        return {"config": config, "tokens": oracle.generate(dataclasses.replace(case, sampler={"class_name": sampler, "config": config})).tolist()}
    for temperature in (config.get("temperature", 1.0), *HIGHER_TEMPERATURES):
        found = search(oracle, case, sampler, config if temperature == 1 else config | {"temperature": temperature})
        if found is not None:
            return found
    raise AssertionError(f"{case.name}: no seed of {sampler} has draws that are clear of other outcomes, and many different tokens")


def search(oracle: LoadedOracle, case: Case, sampler: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """The same for the first seed that will do, at one temperature."""
    first = dataclasses.replace(case, sampler={"class_name": sampler, "config": config | {"seed": SEEDS[0]}})
    inputs = generate_inputs(case, PAD, oracle.prompt_form)
    with oracle._sampling(first, preprocessor=None):  # one compiled function for all seeds
        for seed in SEEDS:
            seeded = dataclasses.replace(case, sampler={"class_name": sampler, "config": config | {"seed": seed}})
            oracle.task.sampler.seed_generator.state.assign([seed, 0])
            tokens = generated_rows(case, oracle._generated(inputs, None), oracle.prompt_form)
            if distinct(tokens.tolist(), case.prompts) >= LEAST_DISTINCT and smallest_gap(seeded, oracle.logits(case, tokens)) >= LEAST_GAP:
                return {"config": config | {"seed": seed}, "tokens": tokens.tolist()}
    return None


def smallest_gap(case: Case, logits: Any) -> float:
    """How near the nearest of the case's draws is to another outcome, as a share of the spread of its logits."""
    pick = SeededPick(case, Rng())
    places = ((row, column) for row, prompt in enumerate(case.prompts) for column in range(len(prompt), case.max_length))
    return min(pick.gap(logits[row, column - 1], row, column) / float(np.ptp(logits[row, column - 1])) for row, column in places)


def golden_document(name: str, committed: dict[str, Any]) -> dict[str, Any]:
    """The golden file's content, with the seeds of the committed one if there is one.

    Raises:
        AssertionError: the original runs what the table says it refuses.
    """
    task = ZOO[name].build()
    oracle, case = LoadedOracle(task, PAD), case_of(name, task)
    samplers = {}
    for sampler in (sampler for sampler in SAMPLERS if (name, sampler) not in UNFIT):
        if (ZOO[name].family, sampler) not in REFUSED:
            samplers[sampler] = run(oracle, case, sampler, committed.get(sampler, {}).get("config"))
            continue
        try:
            run(oracle, case, sampler, SAMPLERS[sampler])
        except (TypeError, ValueError, tf.errors.OpError):
            continue
        raise AssertionError(f"{name}: KerasHub runs {sampler}, which the table of refusals denies")
    return {"name": name, "prompts": case.prompts, "encoder": case.encoder, "length": LENGTH, "samplers": samplers}


def write(name: str) -> str:
    """Write one file, a sampler a line."""
    document = golden_document(name, {})
    samplers = ",\n".join(f"  {json.dumps(sampler)}: {json.dumps(entry)}" for sampler, entry in document.pop("samplers").items())
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items())
    FOLDER.mkdir(exist_ok=True)
    path_of(name).write_text(f'{{\n{head},\n "samplers": {{\n{samplers}\n }}\n}}\n', encoding="utf-8")
    return "written"


def differing(name: str) -> str:
    """What differs between the committed file and one made now."""
    committed = golden(name)
    now = json.loads(json.dumps(golden_document(name, committed["samplers"])))
    return "" if committed == now else "differs from the committed file"


def main() -> None:
    """See the module."""
    command.run("Write or check the golden files of the zoo's samplers.", list(ZOO), PARTS, write, differing)


if __name__ == "__main__":
    main()
