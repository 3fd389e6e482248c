"""A hand-built artifact and a way to run the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kexport.converter.cli import cli

from ..runtime.gqa_model import write_decoder, write_encoder_decoder

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """`run("inspect", "DIR")`: exit code, standard output and standard error of a command."""

    def invoke(*arguments: object, input: str | None = None, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input, env=env, prog_name="kexport")

    return invoke


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder without a tokenizer: 96 ids, capacity 64."""
    directory = tmp_path_factory.mktemp("decoder")
    write_decoder(directory)
    return directory


@pytest.fixture(scope="session")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seq2seq model without a tokenizer."""
    directory = tmp_path_factory.mktemp("encoder_decoder")
    write_encoder_decoder(directory)
    return directory
