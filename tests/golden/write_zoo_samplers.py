"""Write or check the golden files of the zoo: tokens and texts of KerasHub's own `generate()`, by model and sampler; for ragged ids, and where the model has a
tokenizer for one text and for several.

    python -m tests.golden.write_zoo_samplers [NAME ...]            write (all by default); NAME/SAMPLER writes one entry of a file
    python -m tests.golden.write_zoo_samplers --check --part 2/9    make every ninth entry again and fail on any difference
    python -m tests.golden.write_zoo_samplers --check --part commit a part that rotates with the number of commits

Seeds are searched, when files are written, so that no draw lies near another outcome (see `LEAST_GAP`): rounding may move it there, in KerasHub itself from one machine to
the next; and so that the rows gain many different tokens, at a higher temperature where the model repeats itself. What draws nothing must give the same for
weights that are moved a little (see `NUDGE`). What the original refuses must be in the table of zoo_samplers.py, and the other way round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
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
    LENGTH,
    PROMPT_LENGTHS,
    REFUSED,
    SAMPLERS,
    TEXT_LENGTH,
    TEXTS,
    config_of,
    considered,
    distinct,
    golden,
    least_distinct,
    path_of,
)
from tests.text_zoo import SPEAKING, build
from tests.zoo import ZOO
from tests.zoo.variant import VOCABULARY

PAD = 0
PARTS = 20
SEEDS = range(1, 41)
HIGHER_TEMPERATURES = [{"temperature": higher} for higher in (1.5, 2.0, 3.0, 4.0, 6.0)]  # for models that repeat themselves at the sampler's own
LEAST_GAP = 1e-5  # of each draw, as a share of the spread of its logits: a step of the distribution that far away is out of reach of rounding
NUDGE, NUDGES = 1e-5, 4  # each weight is moved by a random number of this share of itself, so often
OTHERS: dict[str, list[dict[str, Any]]] = {  # what is tried where a sampler's own config will not do, other than higher temperatures
    "GreedySampler": [],
    "TopPSampler": [{"k": 6}, {"k": 6, "temperature": 1.5}, *HIGHER_TEMPERATURES],
    "ContrastiveSampler": [{"k": 3}, {"k": 2}, {"temperature": 1.5}],
    "BeamSampler": [{"num_beams": 2}, {"num_beams": 4}, {"num_beams": 5}, {"temperature": 1.5}, {"temperature": 2.0}],
}
DRAWS = ("RandomSampler", "TopKSampler", "TopPSampler")


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


def as_ids(case: Case, texts: list[str], task: Any) -> Case:
    """Texts as the original makes ids of them, its rows long enough for all their tokens."""
    if case.split:
        prompts = tuple(tuple(int(token) for token in task.preprocessor.tokenizer(text)) for text in texts)
        return dataclasses.replace(case, prompts=prompts, max_length=max(map(len, prompts)) + TEXT_LENGTH)
    inputs = task.preprocessor.generate_preprocess(texts, sequence_length=TEXT_LENGTH)
    decoder = "decoder_" if case.encoder else ""
    encoder = unpadded(inputs, "encoder_") if case.encoder else ()
    return dataclasses.replace(case, prompts=unpadded(inputs, decoder), encoder=encoder, max_length=TEXT_LENGTH)


def unpadded(inputs: Any, prefix: str) -> tuple[tuple[int, ...], ...]:
    """The rows that stand in a table of ids and its mask."""
    ids, mask = (np.asarray(inputs[f"{prefix}{table}"]) for table in ("token_ids", "padding_mask"))
    return tuple(tuple(row[real.astype(bool)].tolist()) for row, real in zip(ids, mask, strict=True))


@dataclasses.dataclass
class Asking:
    """A model of the zoo and the questions it is asked: ragged ids, and if it speaks the ids of one text and of several."""

    name: str
    task: Any
    oracle: LoadedOracle
    cases: list[Case]

    @classmethod
    def of(cls, name: str) -> Asking:
        """Builds the model."""
        task = build(name)
        case = case_of(name, task)
        texts = [as_ids(case, texts, task) for texts in (TEXTS[:1], TEXTS)] if name in SPEAKING else []
        return cls(name, task, LoadedOracle(task, PAD), [case, *texts])

    def entry(self, sampler: str, config: dict[str, Any]) -> dict[str, Any]:
        """What the golden file holds of a sampler: config, tokens, the answers to one text and to several; by the public `generate()`."""
        case = dataclasses.replace(self.cases[0], sampler={"class_name": sampler, "config": config})
        found: dict[str, Any] = {"config": config, "tokens": self.oracle.generate(case).tolist()}
        if self.name in SPEAKING:
            one, several = (dataclasses.replace(case, texts=tuple(texts), max_length=TEXT_LENGTH) for texts in (TEXTS[:1], TEXTS))
            found |= {"text": self.oracle.texts(one)[0], "several": self.oracle.texts(several)}
        return found

    def fit(self, sampler: str) -> dict[str, Any]:
        """The sampler's config that will do, with a seed if it draws.

        Raises:
            AssertionError: there is none.
        """
        config = config_of(self.name, sampler)
        tried = [config, *(config | other for other in OTHERS.get(sampler, HIGHER_TEMPERATURES))]
        for one in tried:
            any_seed = {"seed": SEEDS[0]} if sampler in DRAWS else {}
            first = dataclasses.replace(self.cases[0], sampler={"class_name": sampler, "config": one | any_seed})
            with self.oracle._sampling(first, preprocessor=None):  # one compiled function for all seeds and nudges
                found = self._seeded(sampler, one) if sampler in DRAWS else one if self._is_clear(sampler, one) else None
            if found is not None:
                return found
        raise AssertionError(f"{self.name}: {sampler} has no config whose outcomes are clear of others, and many different tokens")

    def _seeded(self, sampler: str, config: dict[str, Any]) -> dict[str, Any] | None:
        """The config with the first seed that will do for every question."""
        for seed in SEEDS:
            seeded = [dataclasses.replace(case, sampler={"class_name": sampler, "config": config | {"seed": seed}}) for case in self.cases]
            if all(self._will_do(case, self._tokens(case, seed)) for case in seeded):
                return config | {"seed": seed}
        return None

    def _will_do(self, case: Case, tokens: Any) -> bool:
        return self._is_rich(case, tokens) and smallest_gap(case, self.oracle.logits(case, tokens)) >= LEAST_GAP

    def _is_rich(self, case: Case, tokens: Any) -> bool:
        return len(case.prompts) == 1 or distinct(tokens.tolist(), case.prompts) >= least_distinct(case.sampler["class_name"])

    def _is_clear(self, sampler: str, config: dict[str, Any]) -> bool:
        """Whether every question is answered with many different tokens, and the same ones when weights move a little."""
        cases = [dataclasses.replace(case, sampler={"class_name": sampler, "config": config}) for case in self.cases]
        found = [self._tokens(case) for case in cases]
        return all(self._is_rich(case, tokens) for case, tokens in zip(cases, found, strict=True)) and all(
            self._stays(case, tokens) for case, tokens in zip(cases, found, strict=True)
        )

    def _stays(self, case: Case, tokens: Any) -> bool:
        for seed in range(NUDGES):
            with nudged(self.task, seed):
                if self._tokens(case).tolist() != tokens.tolist():
                    return False
        return True

    def _tokens(self, case: Case, seed: int | None = None) -> Any:
        """The original's, by the sampler that is set (see `fit`), from the seed's beginning."""
        if seed is not None:
            self.task.sampler.seed_generator.state.assign([seed, 0])
        form = self.oracle.prompt_form
        return generated_rows(case, self.oracle._generated(generate_inputs(case, PAD, form), None), form)


@contextlib.contextmanager
def nudged(task: Any, seed: int) -> Iterator[None]:
    """The task with its weights moved by shares of themselves, further than the rounding of any engine moves what comes of them."""
    generator = np.random.default_rng(seed)
    weights = [variable for variable in task.variables if str(variable.dtype).startswith("float")]
    found = [variable.numpy() for variable in weights]
    for variable, weight in zip(weights, found, strict=True):
        variable.assign((weight * (1 + NUDGE * generator.standard_normal(weight.shape))).astype(weight.dtype))
    try:
        yield
    finally:
        for variable, weight in zip(weights, found, strict=True):
            variable.assign(weight)


def smallest_gap(case: Case, logits: Any) -> float:
    """How near the nearest of the case's draws is to another outcome, as a share of the spread of its logits."""
    pick = SeededPick(case, Rng())
    places = ((row, column) for row, prompt in enumerate(case.prompts) for column in range(len(prompt), case.max_length))
    return min(pick.gap(logits[row, column - 1], row, column) / float(np.ptp(logits[row, column - 1])) for row, column in places)


def entries(asking: Asking, samplers: list[str], committed: dict[str, Any]) -> dict[str, Any]:
    """What the golden file holds of these samplers, with the configs of the committed one if there is one.

    Raises:
        AssertionError: the original runs what the table says it refuses.
    """
    found = {}
    for sampler in samplers:
        if (ZOO[asking.name].family, sampler) in REFUSED:
            check_refusal(asking, sampler)
            continue
        config = committed[sampler]["config"] if sampler in committed else asking.fit(sampler)
        found[sampler] = asking.entry(sampler, config)
    return found


def check_refusal(asking: Asking, sampler: str) -> None:
    """Raise AssertionError if the original runs it."""
    try:
        asking.entry(sampler, config_of(asking.name, sampler))
    except (TypeError, ValueError, tf.errors.OpError):
        return
    raise AssertionError(f"{asking.name}: KerasHub runs {sampler}, which the table of refusals denies")


def head(asking: Asking) -> dict[str, Any]:
    """What a golden file says of the questions."""
    case = asking.cases[0]
    texts = {"texts": TEXTS, "text_length": TEXT_LENGTH} if asking.name in SPEAKING else {}
    return {"name": asking.name, "prompts": case.prompts, "encoder": case.encoder, "length": LENGTH, **texts}


def unit(name: str) -> tuple[str, list[str]]:
    """The model and the samplers of `NAME` or `NAME/SAMPLER`."""
    model, _, sampler = name.partition("/")
    return model, [sampler] if sampler else considered(model)


def write(name: str) -> str:
    """Write one file, or one entry of it, a sampler a line."""
    model, samplers = unit(name)
    asking = Asking.of(model)
    others = golden(model)["samplers"] if len(samplers) == 1 and path_of(model).exists() else {}
    made = {sampler: entry for sampler, entry in others.items() if sampler not in samplers} | entries(asking, samplers, {})
    store(head(asking) | {"samplers": made})
    return "written"


def store(document: dict[str, Any]) -> None:
    """Write a golden file, a sampler a line."""
    made = document["samplers"]
    lines = ",\n".join(f"  {json.dumps(sampler)}: {json.dumps(made[sampler])}" for sampler in SAMPLERS if sampler in made)
    first = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items() if key != "samplers")
    FOLDER.mkdir(exist_ok=True)
    path_of(document["name"]).write_text(f'{{\n{first},\n "samplers": {{\n{lines}\n }}\n}}\n', encoding="utf-8")


def differing(name: str) -> str:
    """What differs between the committed file, or an entry of it, and one made now."""
    model, samplers = unit(name)
    committed, asking = golden(model), Asking.of(model)
    now = json.loads(json.dumps(head(asking) | {"samplers": entries(asking, samplers, committed["samplers"])}))
    committed["samplers"] = {sampler: entry for sampler, entry in committed["samplers"].items() if sampler in samplers}
    return "" if committed == now else "differs from the committed file"


UNITS = [f"{name}/{sampler}" for name in ZOO for sampler in considered(name)]


def main() -> None:
    """See the module."""
    command.run("Write or check the golden files of the zoo's samplers.", UNITS, PARTS, write, differing)


if __name__ == "__main__":
    main()
