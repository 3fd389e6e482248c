"""A model of split prompts (RWKV-7) with its own tokenizer, from a preset directory to text: what KerasHub's `generate()` says, the artifact says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError

from tests.converter.printable_rwkv7 import SEQUENCE_LENGTH, printable_rwkv7
from tests.runtime import longest_match_vocabulary as vocabulary

pytestmark = pytest.mark.slow
NEW_TOKENS = 24
CAPACITY = 256
RAGGED = ["hello the thing", "a", "In 1984, 12345678 people said hello to the quick brown fox.", "\nnow"]


@pytest.fixture(scope="module")
def task() -> Any:
    """See printable_rwkv7."""
    return printable_rwkv7()


@pytest.fixture(scope="module")
def artifact(task: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The task, saved as a preset and converted from there, hidden states included; with the parity gate, which refuses texts that differ."""
    from kexport.converter import convert

    folder = tmp_path_factory.mktemp("rwkv7")
    task.save_to_preset(str(folder / "preset"))
    return convert(str(folder / "preset"), target="onnx", output=folder / "out", max_length=CAPACITY, signatures=("hidden_states",))


@pytest.fixture(scope="module")
def model(artifact: Any) -> Any:
    """The artifact, opened with its tokenizer."""
    from kexport import runtime

    with runtime.load(artifact.directory) as model:
        model.compile(sampler="greedy")
        yield model


@pytest.fixture(scope="module")
def id_model(artifact: Any) -> Any:
    """The artifact, opened without its tokenizer."""
    from kexport import runtime

    with runtime.load(artifact.directory, preprocessor=None) as model:
        model.compile(sampler="greedy")
        yield model


@pytest.fixture
def bare(task: Any) -> Any:
    """The original without its preprocessor, for a while."""
    preprocessor, task.preprocessor = task.preprocessor, None
    yield task
    task.preprocessor = preprocessor


def arrays(task: Any, texts: list[str], new_tokens: int) -> dict[str, Any]:
    """The original's four arrays."""
    return {name: np.asarray(value) for name, value in task.preprocessor.generate_preprocess(texts, sequence_length=new_tokens).items()}


def test_the_artifact_says_what_it_is(artifact: Any) -> None:
    """The vocabulary ships as it is, proven on more than 2,000 strings; the gate compared texts, too; prompts are split."""
    manifest = artifact.manifest
    assert (artifact.directory / "vocabulary.txt").read_text(encoding="utf-8") == "".join(vocabulary.lines())
    tokenizer = manifest.tokenizer
    assert (tokenizer.kind, tokenizer.file) == ("longest_match", "vocabulary.txt") and tokenizer.proven_strings >= 2_000
    assert tokenizer.packers["prompt"].sequence_length == SEQUENCE_LENGTH
    assert tokenizer.stop_token_ids == (vocabulary.TOKENS.index(b"\n\n") + vocabulary.FIRST_ID,)
    assert manifest.generation.prompt == "split" and manifest.generation.schedule == "rows"
    assert manifest.parity.verdict == "proven" and manifest.parity.warnings == ()
    assert any(case.texts for case in manifest.parity.cases)


@pytest.mark.parametrize("prompt", [*RAGGED, "é 日本"])
def test_a_text_is_kerashubs(prompt: str, task: Any, model: Any) -> None:
    """One prompt: of one token, of several, and one that is cut on the left."""
    expected = task.generate(prompt, max_length=NEW_TOKENS)
    assert model.generate(prompt, max_length=NEW_TOKENS) == expected
    assert "".join(model.stream(prompt, max_length=NEW_TOKENS)) == expected


def test_ragged_texts_are_kerashubs(task: Any, model: Any) -> None:
    """Several prompts at once, and none, one or several new tokens."""
    for new_tokens in (0, 1, NEW_TOKENS):
        assert model.generate(RAGGED, max_length=new_tokens) == task.generate(RAGGED, max_length=new_tokens)
    texts = task.generate(RAGGED, max_length=NEW_TOKENS)
    assert len(set("".join(texts))) > 15


def test_stops_are_kerashubs(task: Any, model: Any) -> None:
    """Ids that stop one row early, or all of them; the other rows go on until the last one stopped. 0 stops before anything is said: it pads."""
    free = arrays_of(task, RAGGED)
    for stops in ([int(free[0, SEQUENCE_LENGTH + 6])], free[:, SEQUENCE_LENGTH + 5].tolist(), [0], None):
        expected = task.generate(RAGGED, max_length=NEW_TOKENS, stop_token_ids=stops)
        assert model.generate(RAGGED, max_length=NEW_TOKENS, stop_token_ids=stops) == expected
        assert "".join(model.stream(RAGGED[0], max_length=NEW_TOKENS, stop_token_ids=stops)) == model.generate(RAGGED[0], NEW_TOKENS, stops)


def arrays_of(task: Any, texts: list[str]) -> Any:
    """The ids that the original gives without stops."""
    inputs, preprocessor = arrays(task, texts, NEW_TOKENS), task.preprocessor
    task.preprocessor = None
    try:
        return task.generate(inputs, stop_token_ids=None)["token_ids"]
    finally:
        task.preprocessor = preprocessor


def test_contrastive_search_is_kerashubs(task: Any, model: Any) -> None:
    """Where KerasHub's own runs at all: as many new tokens as the prompt's table has. Padded prompts and one that is cut, which compare with other first tokens."""
    import keras_hub

    sampler = keras_hub.samplers.ContrastiveSampler(k=4, alpha=0.8)
    task.compile(sampler=sampler)
    model.compile(sampler=sampler)
    expected = task.generate(RAGGED, max_length=SEQUENCE_LENGTH - 1, stop_token_ids=None)
    assert model.generate(RAGGED, max_length=SEQUENCE_LENGTH - 1, stop_token_ids=None) == expected
    task.compile(sampler="greedy")
    model.compile(sampler="greedy")
    assert expected != task.generate(RAGGED, max_length=SEQUENCE_LENGTH - 1, stop_token_ids=None)


@pytest.mark.parametrize("strip_prompt", [False, True])
def test_ids_are_kerashubs(strip_prompt: bool, task: Any, id_model: Any) -> None:
    """The four arrays in, the original's two out, their types and shapes included; with and without stops."""
    inputs, preprocessor = arrays(task, RAGGED, NEW_TOKENS), task.preprocessor
    task.preprocessor = None
    try:
        for stops in (None, [int(arrays_at(task, inputs)[0, -7])], [0]):
            expected = task.generate(dict(inputs), stop_token_ids=stops, strip_prompt=strip_prompt)
            ours = id_model.generate(inputs, stop_token_ids=stops, strip_prompt=strip_prompt)
            assert set(ours) == set(expected) == {"token_ids", "padding_mask"}
            for name, array in expected.items():
                np.testing.assert_array_equal(ours[name], array)
                assert ours[name].dtype == array.dtype
    finally:
        task.preprocessor = preprocessor


def arrays_at(task: Any, inputs: dict[str, Any]) -> Any:
    """The ids that the original, without its preprocessor, gives without stops."""
    return task.generate(dict(inputs), stop_token_ids=None)["token_ids"]


def test_batches_are_joined(task: Any, id_model: Any) -> None:
    """Batch after batch, as all at once; where a buffer is longer than the first one there is a clear error."""
    inputs = arrays(task, RAGGED, 3)
    halves = [{name: array[part] for name, array in inputs.items()} for part in (slice(0, 2), slice(2, 4))]
    joined, whole = id_model.generate(iter(halves), stop_token_ids=None), id_model.generate(inputs, stop_token_ids=None)
    np.testing.assert_array_equal(joined["token_ids"], whole["token_ids"])
    with pytest.raises(InvalidInputError, match="KX520"):
        id_model.generate([inputs, arrays(task, RAGGED, 4)], stop_token_ids=None)


def test_masks_with_holes_are_kerashubs(bare: Any, id_model: Any) -> None:
    """Padding between and behind a prefix's tokens is what the original makes of it, and known tokens in the buffer stay."""
    generator = np.random.default_rng(5)
    ids = generator.integers(1, 200, (3, 9)).astype(np.int32)
    mask = np.array([[0, 0, 1, 1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 1]], bool)
    buffer = generator.integers(1, 200, (3, 12)).astype(np.int32)
    known = np.array([[1] * 3 + [0] * 9, [1] + [0] * 11, [1, 0, 0, 1] + [0] * 8], bool)
    inputs = {"token_ids": ids, "input_padding_mask": mask, "predict_token_ids": buffer, "padding_mask": known}
    expected = bare.generate(dict(inputs), stop_token_ids=None)
    np.testing.assert_array_equal(id_model.generate(inputs, stop_token_ids=None)["token_ids"], expected["token_ids"])


def test_the_preprocessor_is_kerashubs(task: Any, model: Any) -> None:
    """`lm.preprocessor` packs as the original's, and its output is what the model takes without a tokenizer."""
    ours = model.preprocessor.generate_preprocess(RAGGED, 5)
    for name, array in arrays(task, RAGGED, 5).items():
        np.testing.assert_array_equal(ours[name], array)
    result = {"token_ids": np.array([[0, 0, 105, 98]]), "padding_mask": np.array([[1, 1, 1, 0]])}
    assert model.preprocessor.generate_postprocess(result) == list(task.preprocessor.generate_postprocess(result))


def test_strip_prompt_leaves_the_new_text(task: Any, model: Any) -> None:
    """In text KerasHub's own strips something else; the artifact gives what its id mode leaves: the new tokens' text."""
    texts = model.generate(RAGGED, max_length=NEW_TOKENS, strip_prompt=True)
    free = arrays_of(task, RAGGED)[:, SEQUENCE_LENGTH + 1 :]
    assert texts == list(task.preprocessor.tokenizer.detokenize(free.tolist()))
    assert "".join(model.stream(RAGGED[0], max_length=NEW_TOKENS, strip_prompt=True)) == texts[0]


@pytest.mark.parametrize("sampler", ["random", "top_k", "beam"])
def test_samplers_are_kerashubs(sampler: str, task: Any, model: Any) -> None:
    """The same seed, the same texts; beams are reordered with their states."""
    import keras_hub

    kerashubs = {
        "random": lambda: keras_hub.samplers.RandomSampler(seed=11, temperature=0.7),
        "top_k": lambda: keras_hub.samplers.TopKSampler(k=4, seed=12),
        "beam": lambda: keras_hub.samplers.BeamSampler(num_beams=3),
    }[sampler]
    task.compile(sampler=kerashubs())
    model.compile(sampler=kerashubs())
    try:
        assert model.generate(RAGGED, max_length=NEW_TOKENS) == task.generate(RAGGED, max_length=NEW_TOKENS)
    finally:
        task.compile(sampler="greedy")
        model.compile(sampler="greedy")


def test_what_does_not_fit_is_refused(model: Any, id_model: Any) -> None:
    """A length that is missing, an empty prompt, too many tokens, arrays that are missing or wrong, contrastive search where KerasHub's own fails."""
    from kexport import runtime

    ids = np.array([[0, 5, 6]], np.int32)
    good = {"token_ids": ids, "input_padding_mask": ids > 0, "predict_token_ids": np.array([[7, 0]]), "padding_mask": np.array([[1, 0]])}
    for code, call in (
        ("KX527", lambda: model.generate("hello")),
        ("KX527", lambda: model.generate("hello", max_length=-1)),
        ("KX521", lambda: model.generate(["hello", ""], max_length=3)),
        ("KX523", lambda: model.generate("hello", max_length=CAPACITY)),
        ("KX520", lambda: id_model.generate({"token_ids": ids, "padding_mask": ids > 0}, stop_token_ids=None)),
        ("KX520", lambda: id_model.generate({**good, "padding_mask": np.ones((2, 2))}, stop_token_ids=None)),
        ("KX520", lambda: id_model.generate({**good, "token_ids": ids[[0, 0]], "input_padding_mask": ids[[0, 0]] > 0}, stop_token_ids=None)),
        ("KX521", lambda: id_model.generate({**good, "input_padding_mask": ids < 0}, stop_token_ids=None)),
        ("KX522", lambda: id_model.generate({**good, "token_ids": np.array([[1, 0, 2]]), "input_padding_mask": np.ones((1, 3))}, stop_token_ids=None)),
    ):
        with pytest.raises(InvalidInputError) as raised:
            call()
        assert raised.value.code == code
    model.compile(sampler=runtime.samplers.get("contrastive"))
    with pytest.raises(UnsupportedError, match="KX559") as refused:
        model.generate("hello", max_length=3)
    assert f"max_length={SEQUENCE_LENGTH - 1}" in refused.value.hint
    model.compile(sampler="greedy")
    id_model.compile(sampler="contrastive")
    with pytest.raises(UnsupportedError, match="KX559"):  # KerasHub would compare with the 9
        id_model.generate({**good, "token_ids": np.array([[9, 6]]), "input_padding_mask": np.array([[0, 1]])}, stop_token_ids=None)
    id_model.compile(sampler="greedy")


def test_the_command_line_counts_new_tokens(artifact: Any, task: Any) -> None:
    """Texts and ids, `--max-length` and `--max-new-tokens` alike; without either there is one clear error."""
    from click.testing import CliRunner
    from kexport.converter.cli import cli

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["generate", str(artifact.directory), *arguments], prog_name="kexport")

    expected = task.generate(RAGGED[0], max_length=6)
    for option in ("--max-length", "--max-new-tokens"):
        done = run(RAGGED[0], option, "6", "--sampler", "greedy", "--json")
        assert done.exit_code == 0 and json.loads(done.stdout)["results"][0]["text"] == expected, done.output
    stop = expected[len(RAGGED[0]) + 2 :]
    done = run(RAGGED[0], "--max-new-tokens", "6", "--sampler", "greedy", "--stop", stop, "--json")
    assert json.loads(done.stdout)["results"][0]["text"] == expected[: len(RAGGED[0]) + expected[len(RAGGED[0]) :].index(stop)]
    ids = [int(identifier) for identifier in task.preprocessor.tokenizer(RAGGED[0])]
    done = run("--token-ids", " ".join(map(str, ids)), "--max-new-tokens", "6", "--sampler", "greedy", "--json")
    row = json.loads(done.stdout)["results"][0]["token_ids"]
    assert row[: len(ids)] == ids and len(row) == len(ids) + 6
    assert task.preprocessor.tokenizer.detokenize([row])[0] == expected
    refused = run(RAGGED[0])
    assert refused.exit_code == 5 and "KX527" in refused.stderr and "--max-new-tokens" in refused.stderr


def test_a_vocabulary_beyond_the_model_is_refused(task: Any) -> None:
    """Its ids begin at 1, so that the highest one is as high as there are lines; the model must have a row for it."""
    from kexport.converter.checks import check_tokenizer_fits, highest_token_id

    highest = highest_token_id(task.preprocessor.tokenizer)
    assert highest == len(vocabulary.TOKENS)
    check_tokenizer_fits(highest, highest + 1, "it")
    with pytest.raises(InvalidInputError, match="KX432"):
        check_tokenizer_fits(highest, highest, "it")


def test_a_padding_id_of_its_own_is_refused(task: Any, tmp_path: Path) -> None:
    """KerasHub's model takes the id 0 for padding whatever the tokenizer says: such a tokenizer would print its padding."""
    import keras_hub
    from kexport.converter.tokenizers import export_tokenizer

    tokenizer = keras_hub.models.RWKVTokenizer(vocabulary.lines(), pad_token_id=7)
    with pytest.raises(UnsupportedError, match="pads with 7"):
        export_tokenizer(keras_hub.models.RWKV7CausalLMPreprocessor(tokenizer, sequence_length=SEQUENCE_LENGTH), tmp_path)
