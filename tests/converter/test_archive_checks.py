"""A `.keras` file is described and refused from its members."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from kexport.converter.sources import open_source
from kexport.runtime.contract.errors import KexportError

from tests.converter.preset_folder import HIDDEN, VOCABULARY_SIZE, backbone_config, serialized, write_weights


def members(tmp_path: Path) -> dict[str, bytes]:
    """The members of a sound archive, without a tokenizer."""
    write_weights(tmp_path / "weights.h5")
    task = serialized("BloomCausalLM", {"backbone": backbone_config(), "preprocessor": None, "name": "bloom_causal_lm"})
    return {"config.json": json.dumps(task).encode(), "model.weights.h5": (tmp_path / "weights.h5").read_bytes(), "metadata.json": b"{}"}


def archive(tmp_path: Path, **changes: Any) -> Path:
    """Writes an archive; `changes` replace members (dots as underscores), None removes one."""
    content = members(tmp_path)
    for key, value in changes.items():
        content[key.replace("__", "/").replace("_", ".")] = value
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in content.items():
            if data is not None:
                file.writestr(name, data)
    path = tmp_path / "model.keras"
    path.write_bytes(stream.getvalue())
    return path


def refusal(source: object) -> KexportError:
    """The error that opening `source` ends with."""
    with pytest.raises(KexportError) as caught:
        open_source(source)
    return caught.value


def test_an_archive_is_described_from_its_members(tmp_path: Path) -> None:
    """Task, class, config and parameter count are known without Keras."""
    source = open_source(archive(tmp_path))
    assert (source.kind, source.task, source.class_name) == ("keras-file", "causal-lm", "BloomCausalLM")
    assert source.config["hidden_dim"] == HIDDEN
    assert source.parameter_count == (VOCABULARY_SIZE + 2 * HIDDEN) * HIDDEN
    assert not source.has_tokenizer


def test_optimizer_slots_are_no_parameters(tmp_path: Path) -> None:
    """A model saved after fit() carries its optimizer's state."""
    write_weights(tmp_path / "weights.h5", {"layers/dense/vars/0": (3, 4), "optimizer/vars/0": (100,)})
    assert open_source(archive(tmp_path, model_weights_h5=(tmp_path / "weights.h5").read_bytes())).parameter_count == 12


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"config_json": None}, "KX426"),
        ({"model_weights_h5": None}, "KX426"),
        ({"config_json": b"{"}, "KX411"),
        ({"model_weights_h5": b"hello"}, "KX421"),
        ({"config_json": json.dumps({"class_name": "Lambda", "module": "keras.layers", "config": {}}).encode()}, "KX414"),
    ],
)
def test_a_broken_archive_is_refused(changes: dict[str, Any], code: str, tmp_path: Path) -> None:
    """A missing or damaged member, or code inside."""
    assert refusal(archive(tmp_path, **changes)).code == code


def test_a_member_may_not_leave_the_archive(tmp_path: Path) -> None:
    """A path with `..` is an attack, not a model."""
    path = archive(tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("assets/../../evil", b"x")
    assert refusal(path).code == "KX414"


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_what_is_not_a_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    """A truncated download."""
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    assert refusal(path).code == "KX426"


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    """A Functional model generates nothing."""
    config = {"class_name": "Functional", "module": "keras.src.models.functional", "config": {}, "registered_name": "Functional"}
    assert refusal(archive(tmp_path, config_json=json.dumps(config).encode())).code == "KX417"
