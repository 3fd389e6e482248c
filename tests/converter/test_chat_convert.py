"""A transformers directory with a chat template becomes an artifact that chats, as KerasHub continues the rendered text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kexport import runtime
from kexport.converter.conversion import convert
from kexport.converter.sources import open_source

from tests.converter.preset_folder import edit, write_json

pytestmark = pytest.mark.slow
TEMPLATE = """{{ bos_token }}{% for message in messages %}
<start_of_turn>{{ message.role }}
{{ message.content }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
MESSAGES = [{"role": "user", "content": "What's the time?"}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Gemma in the transformers layout."""
    from tests.converter import tiny_models

    path = tmp_path_factory.mktemp("gemma")
    tiny_models.gemma().export_to_transformers(str(path))
    edit(path / "config.json", lambda config: config.update(architectures=["GemmaForCausalLM"]))
    write_json(path / "tokenizer_config.json", {"bos_token": "<bos>", "eos_token": "<eos>"})
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def artifact(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Its ONNX artifact."""
    return convert(directory, output=tmp_path_factory.mktemp("artifact") / "OUT", max_length=128)


def test_the_template_travels_with_the_tokenizer(artifact: Any) -> None:
    """As it was written, with its tokens, and among the files whose digests are kept."""
    record = artifact.manifest.tokenizer.chat
    assert (artifact.directory / record.file).read_text() == TEMPLATE
    assert (record.tokens["bos_token"], record.tokens["eos_token"]) == ("<bos>", "<eos>")
    assert record.file in {file.path for file in artifact.manifest.files}
    assert artifact.manifest.parity.verdict == "proven"


def test_answers_are_those_of_kerashub(directory: Path, artifact: Any) -> None:
    """The ids are KerasHub's for the rendered text: turn markers as the symbols they are, one start token; so is the answer."""
    task = open_source(directory).load()
    task.compile(sampler="greedy")
    with runtime.load(artifact.directory) as model:
        model.compile(sampler="greedy")
        text = model.render_chat(MESSAGES)
        assert text.startswith("<start_of_turn>user\n")
        packed = task.preprocessor.generate_preprocess([text], sequence_length=100)
        ours = model.tokenizer.pack("prompt", [text], 100)  # type: ignore[union-attr]
        assert ours.ids.tolist() == packed["token_ids"].numpy().tolist()
        assert ours.ids[0].tolist().count(task.preprocessor.tokenizer.start_token_id) == 1
        assert task.preprocessor.tokenizer.token_to_id("<start_of_turn>") in ours.ids[0]
        assert model.chat(MESSAGES, max_length=100) == task.generate(text, max_length=100, strip_prompt=True)
