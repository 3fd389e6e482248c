"""A transformers directory is described and refused from its config and the headers of its safetensors files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kexport.converter.sources import open_source
from kexport.runtime.contract.errors import KexportError
from safetensors.numpy import save_file

from tests.converter.preset_folder import edit, write_json

LAYERS = 2
CONFIG = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "num_hidden_layers": LAYERS, "vocab_size": 8}


def tensors(layers: int = LAYERS, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """A few tensors named as a Mistral checkpoint names them."""
    names = ["model.embed_tokens.weight", *(f"model.layers.{index}.mlp.up_proj.weight" for index in range(layers))]
    return {name: np.ones((8, 4), dtype) for name in names}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint without a fault, without a tokenizer."""
    write_json(tmp_path / "config.json", CONFIG)
    save_file(tensors(dtype=np.float16), tmp_path / "model.safetensors")
    return tmp_path


def refusal(source: object) -> KexportError:
    """The error that opening `source` ends with."""
    with pytest.raises(KexportError) as caught:
        open_source(source)
    return caught.value


def test_a_checkpoint_is_described_from_its_headers(checkpoint: Path) -> None:
    """The Keras class follows from the model type, counts and dtype from the tensors."""
    source = open_source(checkpoint)
    assert (source.kind, source.task, source.class_name) == ("transformers", "causal-lm", "MistralCausalLM")
    assert (source.parameter_count, source.dtype, source.has_tokenizer) == (3 * 32, "float16", False)
    assert not source.warnings


def test_rounding_that_keras_hub_does_is_told(checkpoint: Path) -> None:
    """KerasHub stores every Mistral tensor as float16: how many values that changes, where, and what to do instead; nothing if none."""
    values = tensors()
    save_file(values, checkpoint / "model.safetensors")
    assert not open_source(checkpoint).warnings
    values["model.layers.1.mlp.up_proj.weight"][0] = [0.1, 1e5, 1e-9, -0.25]
    values["model.embed_tokens.weight"][3, 1] = 1 / 3
    save_file(values, checkpoint / "model.safetensors")
    (warning,) = open_source(checkpoint).warnings
    for part in ("float32", "float16", "of all 96 values 4 change and 1 become infinite", "`model.layers.1.mlp.up_proj.weight` and", "preset"):
        assert part in warning


def test_bfloat16_and_large_checkpoints_are_counted_too(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 has more range and less precision; of large files a spread of blocks is looked at, which is said."""
    import json
    import struct

    import ml_dtypes
    from kexport.converter.sources import float16_rounding

    def write(values: np.ndarray) -> None:
        raw = values.astype(ml_dtypes.bfloat16).tobytes()
        header = json.dumps({"model.layers.1.w": {"dtype": "BF16", "shape": [len(values)], "data_offsets": [0, len(raw)]}}).encode()
        (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + raw)

    write(np.array([0.1, 3.0, 1e-9, 1e30, np.nan, -1e30]))
    assert "bfloat16" in open_source(checkpoint).warnings[0]
    assert "of all 6 values 3 change and 2 become infinite" in open_source(checkpoint).warnings[0]
    monkeypatch.setattr(float16_rounding, "WHOLE_UP_TO", 10)
    values = np.ones(100_000)
    write(values)
    assert "of 32,768 of 100,000 values 0 change and 0 become infinite" in open_source(checkpoint).warnings[0]
    values[-1] = 1e30
    write(values)
    assert "1 change and 1 become infinite" in open_source(checkpoint).warnings[0]


@pytest.mark.parametrize(
    ("model_type", "class_name", "hint"), [("bert", "BertBackbone", "--task backbone"), ("vit", "ViTBackbone", "model.export(")]
)
def test_what_generates_no_text_says_what_it_is(model_type: str, class_name: str, hint: str, checkpoint: Path) -> None:
    """A model that KerasHub could convert, but that is of another kind: the class, what it does, and the export that fits. A backbone of texts can be asked for."""
    edit(checkpoint / "config.json", lambda config: config.update(model_type=model_type))
    error = refusal(checkpoint)
    assert (error.code, error.exit_code) == ("KX417", 4)
    assert f"`{class_name}`" in error.message and "encodes" in error.message and hint in error.hint
    if "--task backbone" in hint:
        source = open_source(checkpoint, task="backbone")
        assert (source.task, source.class_name) == ("backbone", class_name)
    for task in ("causal-lm", *(() if "--task backbone" in hint else ("backbone",))):
        with pytest.raises(KexportError, match="KX417"):
            open_source(checkpoint, task=task)


@pytest.mark.parametrize("layers", [1, 3])
def test_another_number_of_layers_is_refused(layers: int, checkpoint: Path) -> None:
    """KerasHub reads only the layers that the config asks for, and says nothing about the rest."""
    save_file(tensors(layers), checkpoint / "model.safetensors")
    error = refusal(checkpoint)
    assert (error.code, f"{layers} layers" in error.message, "says 2" in error.message) == ("KX422", True, True)


def test_encoder_and_decoder_are_counted_apart(checkpoint: Path) -> None:
    """Bart's two stacks have their own depths in the config."""
    write_json(
        checkpoint / "config.json",
        {"model_type": "bart", "architectures": ["BartModel"], "encoder_layers": 1, "decoder_layers": 2, "num_hidden_layers": 1},
    )
    names = ["model.encoder.layers.0.fc1.weight", "model.decoder.layers.0.fc1.weight", "model.decoder.layers.1.fc1.weight"]
    save_file({name: np.ones(2, np.float32) for name in names}, checkpoint / "model.safetensors")
    assert open_source(checkpoint).task == "seq2seq-lm"
    edit(checkpoint / "config.json", lambda config: config.update(decoder_layers=1))
    assert "decoder layers" in refusal(checkpoint).message


@pytest.mark.parametrize("content", [b"", b"hello" * 10, b"\xff" * 64])
def test_a_damaged_file_is_refused(content: bytes, checkpoint: Path) -> None:
    """Not a safetensors file."""
    (checkpoint / "model.safetensors").write_bytes(content)
    assert refusal(checkpoint).code == "KX421"


def test_a_truncated_file_is_refused(checkpoint: Path) -> None:
    """The header promises more bytes than there are."""
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(checkpoint).code == "KX421"


def test_shards_must_be_there_and_beside_the_index(checkpoint: Path) -> None:
    """A missing shard is named; a shard outside the directory is refused."""
    index = checkpoint / "model.safetensors.index.json"
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001.safetensors")
    write_json(index, {"weight_map": {"a": "model-00001.safetensors"}})
    assert open_source(checkpoint).parameter_count == 3 * 32
    write_json(index, {"weight_map": {"a": "model-00001.safetensors", "b": "model-00002.safetensors"}})
    error = refusal(checkpoint)
    assert (error.code, "model-00002.safetensors" in error.message) == ("KX420", True)
    write_json(index, {"weight_map": {"a": "../model-00001.safetensors"}})
    assert refusal(checkpoint).code == "KX427"


def test_what_cannot_be_read_is_told_apart(checkpoint: Path) -> None:
    """No weights, weights of another format, and a model type without a converter are different errors."""
    (checkpoint / "model.safetensors").unlink()
    assert refusal(checkpoint).code == "KX420"
    (checkpoint / "pytorch_model.bin").write_bytes(b"x")
    assert refusal(checkpoint).code == "KX461"
    edit(checkpoint / "config.json", lambda config: config.update(model_type="bloom"))
    error = refusal(checkpoint)
    assert (error.code, "bloom" in error.message) == ("KX460", True)


class TestChatTemplates:
    """Found where transformers looks for them, refused with the line where they are malformed."""

    @pytest.fixture
    def chatty(self, checkpoint: Path) -> Path:
        """A checkpoint with a tokenizer's file and a template in its config."""
        (checkpoint / "tokenizer.model").write_bytes(b"x")
        config = {"chat_template": "from the config", "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "pad_token": None}
        write_json(checkpoint / "tokenizer_config.json", config)
        return checkpoint

    def test_of_the_config(self, chatty: Path) -> None:
        """A text, or the default of several named ones; special tokens come as they are spelled."""
        chat = open_source(chatty).chat
        assert chat is not None
        assert (chat.template, chat.tokens) == ("from the config", {"bos_token": "<s>", "eos_token": "</s>"})
        named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual"}]
        for templates, expected in ((named, "usual"), (named[:1], "tools"), ([], None), ({}, None), ("", None), (None, None), (["x"], None)):
            edit(chatty / "tokenizer_config.json", lambda config, templates=templates: config.update(chat_template=templates))
            chat = open_source(chatty).chat
            assert (chat and chat.template) == expected

    def test_a_file_of_its_own_counts_more(self, chatty: Path) -> None:
        """As in transformers; without a tokenizer there is nothing to talk with."""
        (chatty / "chat_template.jinja").write_text("größe", encoding="utf-8")
        chat = open_source(chatty).chat
        assert chat is not None and chat.template == "größe"
        assert open_source(chatty, tokenizer=False).chat is None
        (chatty / "chat_template.jinja").write_bytes(b"\xff")
        assert refusal(chatty).code == "KX445"

    @pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
    def test_a_malformed_template_is_refused_with_its_line(self, file: str, chatty: Path) -> None:
        """Before anything is built; the way out is named."""
        template = "line one\n{% for message in messages %}\n{{ message.content }\n{% endfor %}"
        if file.endswith(".jinja"):
            (chatty / file).write_text(template)
        else:
            edit(chatty / file, lambda config: config.update(chat_template=template))
        error = refusal(chatty)
        assert (error.code, error.exit_code) == ("KX445", 5)
        assert "line 3" in error.message and file in error.message and "--no-tokenizer" in error.hint
        assert open_source(chatty, tokenizer=False).chat is None
