"""`kexport generate`: what goes in and out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kexport import runtime
from kexport.runtime import samplers

from .conftest import Run


def ids_of(text: str) -> list[list[int]]:
    return [[int(part) for part in line.split()] for line in text.splitlines()]


def greedy(directory: Path, row: list[int], length: int) -> list[int]:
    """The runtime's own answer for one row."""
    with runtime.load(directory, preprocessor=None) as model:
        model.compile(sampler="greedy")
        ids = [*row, *[0] * (length - len(row))]
        mask = [column < len(row) for column in range(length)]
        result: list[int] = model.generate({"token_ids": [ids], "padding_mask": [mask]}, stop_token_ids=None)["token_ids"][0].tolist()
        return result


def test_token_ids(run: Run, decoder: Path) -> None:
    """Ids in, the runtime's ids out, one line a row; nothing else on standard output."""
    result = run("generate", decoder, "--token-ids", "5 9 33", "--token-ids", "7,8", "--sampler", "greedy", "--max-length", 20)
    assert result.exit_code == 0
    assert ids_of(result.stdout) == [greedy(decoder, [5, 9, 33], 20), greedy(decoder, [7, 8], 20)]
    assert "sampler: GreedySampler(temperature=1.0)" in result.stderr


def test_max_new_tokens(run: Run, decoder: Path) -> None:
    """`--max-new-tokens` counts the new tokens of each row."""
    result = run("generate", decoder, "--token-ids", "5 9 33", "--token-ids", "7", "--sampler", "greedy", "--max-new-tokens", 6)
    assert [len(row) for row in ids_of(result.stdout)] == [9, 7]


def test_strip_prompt(run: Run, decoder: Path) -> None:
    """`--strip-prompt` prints the new ids alone."""
    arguments = ("generate", decoder, "--token-ids", "5 9 33", "--sampler", "greedy", "--max-length", 10)
    whole, stripped = ids_of(run(*arguments).stdout)[0], ids_of(run(*arguments, "--strip-prompt").stdout)[0]
    assert stripped == whole[3:]


def test_stop_token_ids(run: Run, decoder: Path) -> None:
    """A row ends with its first stop id."""
    whole = greedy(decoder, [5, 9, 33], 30)
    stop = whole[8]
    result = run("generate", decoder, "--token-ids", "5 9 33", "--sampler", "greedy", "--max-length", 30, "--stop-token-ids", stop)
    assert ids_of(result.stdout)[0] == whole[: whole.index(stop, 3) + 1]


def test_json(run: Run, decoder: Path) -> None:
    """`--json` prints one document and nothing else to standard output."""
    result = run("generate", decoder, "--token-ids", "5 9", "--sampler", "greedy", "--max-length", 8, "--json")
    document = json.loads(result.stdout)
    assert document["results"] == [{"prompt": [5, 9], "token_ids": greedy(decoder, [5, 9], 8)}]
    assert document["sampler"].startswith("GreedySampler")


def test_seed(run: Run, decoder: Path) -> None:
    """The original's sampler is the default; a seed makes it repeatable, another seed gives something else."""
    arguments = ("generate", decoder, "--token-ids", "5 9", "--max-length", 40)
    first, again, other = (run(*arguments, "--seed", seed) for seed in (1, 1, 2))
    assert first.stdout == again.stdout != other.stdout
    assert "TopKSampler(k=5, seed=1" in first.stderr


def test_encoder_decoder(run: Run, encoder_decoder: Path) -> None:
    """Of a seq2seq model the ids are the encoder's; where the decoder starts must be said when no tokenizer says it."""
    arguments = ("generate", encoder_decoder, "--token-ids", "5 9 2", "--sampler", "greedy", "--max-new-tokens", 5)
    assert len(ids_of(run(*arguments, "--decoder-token-ids", "3").stdout)[0]) == 6
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "--decoder-token-ids" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        ((), 2, "KX121"), (("a prompt",), 2, "KX122"), (("a prompt", "--token-ids", "1"), 2, "KX121"),
        (("--token-ids", ""), 2, "KX121"), (("--token-ids", "1 2", "--stop", "x"), 2, "KX121"),
        (("--token-ids", "1 2", "--stream"), 2, "KX121"), (("--token-ids", "1", "--max-length", "9", "--max-new-tokens", "3"), 2, "KX121"),
        (("--token-ids", "1 2 3", "--max-length", "2"), 2, "KX121"), (("--token-ids", "1 x"), 2, "KX100"),
        (("--token-ids", "1", "--sampler", "greedy", "--k", "3"), 2, "KX123"), (("--token-ids", "1", "--sampler", "magic"), 2, "KX100"),
        (("--token-ids", "1 96"), 5, "KX522"), (("--token-ids", "-1"), 5, "KX522"), (("--token-ids", "9" * 30), 5, "KX522"), (("--token-ids", "1", "--max-length", "65"), 5, "KX523"),
        (("--token-ids", "1", "--k", "0"), 5, "KX532"), (("--token-ids", "1", "--sampler", "contrastive"), 4, "KX559"),
        (("--token-ids", "1", "--k", "97"), 5, "KX532"), (("--token-ids", "1", "--sampler", "top_p", "--p", "0.5", "--k", "97"), 5, "KX532"),
        (("--token-ids", "1", "--temperature", "0"), 5, "KX532"), (("--token-ids", "1", "--temperature", "-1"), 5, "KX532"),
        (("--token-ids", "1", "--temperature", "nan"), 5, "KX532"), (("--token-ids", "1", "--num-beams", "0", "--sampler", "beam"), 5, "KX532"),
    ],
)  # fmt: skip
def test_refusals(run: Run, decoder: Path, arguments: tuple[str, ...], exit_code: int, code: str) -> None:
    """Each mistake has its code and its exit code, and nothing goes to standard output."""
    result = run("generate", decoder, *arguments)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert f"error[{code}]" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("sampler", ["greedy", "random", "top_k", "top_p", "beam"])
def test_a_model_that_gives_no_numbers(run: Run, decoder: Path, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN logits are said, whatever samples them."""
    from kexport.runtime.engines.onnx import OnnxEngine

    stock = OnnxEngine.extend
    monkeypatch.setattr(OnnxEngine, "extend", lambda *arguments: stock(*arguments) * float("nan"))
    result = run("generate", decoder, "--token-ids", "1 2", "--sampler", sampler, "--max-length", 6)
    assert (result.exit_code, result.stdout, "error[KX533]" in result.stderr) == (5, "", True)


def test_samplers_of_the_help_are_built() -> None:
    """The samplers that the help names are the registered ones."""
    from kexport.converter.commands.generate import BUILT_SAMPLERS, SAMPLERS

    registered = samplers.base.registered_samplers()
    assert set(BUILT_SAMPLERS.split(", ")) == set(registered)
    assert set(registered) <= set(SAMPLERS)
