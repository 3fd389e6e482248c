"""A preset that is broken or hostile is refused by name, from its files alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from kexport.converter.sources import open_source
from kexport.runtime.contract.errors import InvalidInputError, KexportError, UnsupportedError, UsageError

from tests.converter.preset_folder import HIDDEN, LAYERS, SHAPES, VOCABULARY_SIZE, edit, serialized, write_json, write_preset, write_weights


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A preset without a fault."""
    return write_preset(tmp_path / "preset")


def refusal(source: object, **options: Any) -> KexportError:
    """The error that opening `source` ends with."""
    with pytest.raises(KexportError) as caught:
        open_source(source, **options)
    assert caught.value.hint, "an error must show a way out"
    return caught.value


def nested_backbone(document: dict[str, Any]) -> dict[str, Any]:
    """The backbone's config inside a task.json."""
    config: dict[str, Any] = document["config"]["backbone"]["config"]
    return config


def test_a_sound_preset_is_described_from_its_files(preset: Path) -> None:
    """Kind, task, class, config, parameter count, dtype, weight files and tokenizer are known before Keras is imported."""
    source = open_source(preset)
    assert (source.kind, source.task, source.class_name) == ("preset", "causal-lm", "BloomCausalLM")
    assert source.config["num_layers"] == LAYERS
    assert source.parameter_count == (VOCABULARY_SIZE + 2 * HIDDEN) * HIDDEN
    assert source.dtype == "float32"
    assert source.files == (preset / "model.weights.h5",)
    assert source.has_tokenizer
    assert source.record().class_name == "BloomCausalLM"


def test_opening_a_preset_imports_neither_keras_nor_tensorflow(preset: Path) -> None:
    """`plan` must stay cheap: a directory is opened and checked without the heavy libraries."""
    code = f"import sys; from kexport.converter.sources import open_source; open_source({str(preset)!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "kexport.converter.sources" in loaded and not {"keras", "tensorflow", "keras_hub"} & set(loaded)


def test_the_dtype_is_the_one_most_numbers_are_stored_in(preset: Path) -> None:
    """Keras writes bfloat16 as raw 16-bit values and keeps the name in an attribute: that name is reported."""
    (preset / "model.weights.h5").unlink()
    with h5py.File(preset / "model.weights.h5", "w") as file:
        for name, shape in SHAPES.items():
            file.create_dataset(name, data=np.ones(shape, "uint16")).attrs["dtype"] = "bfloat16"
    assert open_source(preset).dtype == "bfloat16"


def test_a_preset_without_task_json_takes_its_task_from_the_metadata(preset: Path) -> None:
    """Backbone presets convert as the task that KerasHub lists for them, without a tokenizer if they have none."""
    for name in ("task.json", "preprocessor.json", "tokenizer.json"):
        (preset / name).unlink()
    source = open_source(preset)
    assert (source.task, source.class_name, source.has_tokenizer) == ("causal-lm", "BloomBackbone", False)


def test_another_task_must_be_asked_for(preset: Path) -> None:
    """A classifier is refused unless its backbone is asked for."""
    edit(preset / "task.json", lambda task: task.update(class_name="BloomTextClassifier", registered_name="keras_hub>BloomTextClassifier"))
    error = refusal(preset)
    assert (error.code, "classifies text" in error.message, "--task backbone" in error.hint) == ("KX417", True, True)
    assert open_source(preset, task="backbone").task == "backbone"
    edit(preset / "task.json", lambda task: task.update(class_name="ViTImageClassifier", registered_name="keras_hub>ViTImageClassifier"))
    error = refusal(preset)
    assert (error.code, "classifies images" in error.message, "model.export(" in error.hint) == ("KX417", True, True)


def test_an_unknown_task_is_a_usage_error(preset: Path) -> None:
    """A misspelt --task is the command line's mistake (exit code 2)."""
    assert isinstance(refusal(preset, task="causal_lm"), UsageError)


def test_shards_are_read_together(preset: Path) -> None:
    """Sharded weights count as one set; a missing shard is named."""
    names = list(SHAPES)
    (preset / "model.weights.h5").unlink()
    write_weights(preset / "model_00000.weights.h5", {name: SHAPES[name] for name in names[:1]})
    write_weights(preset / "model_00001.weights.h5", {name: SHAPES[name] for name in names[1:]})
    weight_map = {"/layers/reversible_embedding/vars": "model_00000.weights.h5", "/layers/x/vars": ["model_00001.weights.h5"]}
    write_json(preset / "model.weights.json", {"weight_map": weight_map})
    assert open_source(preset).parameter_count == (VOCABULARY_SIZE + 2 * HIDDEN) * HIDDEN
    (preset / "model_00001.weights.h5").unlink()
    error = refusal(preset)
    assert (error.code, "model_00001.weights.h5" in error.message) == ("KX420", True)


def remove(name: str) -> Callable[[Path], None]:
    """Removes one file of the preset."""
    return lambda preset: (preset / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], None]:
    """Overwrites one file of the preset."""

    def change(preset: Path) -> None:
        (preset / name).write_bytes(content)

    return change


def set_in(name: str, **values: Any) -> Callable[[Path], None]:
    """Sets keys of a JSON file's top level."""
    return lambda preset: edit(preset / name, lambda document: document.update(values))


def set_config(name: str, **values: Any) -> Callable[[Path], None]:
    """Sets keys of a serialized object's config."""
    return lambda preset: edit(preset / name, lambda document: document["config"].update(values))


def set_backbones(**values: Any) -> Callable[[Path], None]:
    """Sets keys of the backbone's config in config.json and task.json alike."""

    def change(preset: Path) -> None:
        edit(preset / "config.json", lambda document: document["config"].update(values))
        edit(preset / "task.json", lambda document: nested_backbone(document).update(values))

    return change


def truncate(preset: Path) -> None:
    """Cuts the weights file in half."""
    path = preset / "model.weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def link_in_weights(preset: Path) -> None:
    """Makes one tensor a link to another file."""
    with h5py.File(preset / "model.weights.h5", "a") as file:
        file["layers/dense/vars/0"] = h5py.ExternalLink("/etc/hostname", "/")


def data_outside(preset: Path) -> None:
    """Keeps one tensor's data in another file."""
    with h5py.File(preset / "model.weights.h5", "a") as file:
        file.create_dataset("layers/dense/vars/0", shape=(2,), dtype="f4", external=[("/etc/hostname", 0, 8)])


def lambda_layer(preset: Path) -> None:
    """Puts a Lambda layer where the preprocessor was."""
    layer = {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"function": {"class_name": "__lambda__"}},
        "registered_name": None,
    }
    edit(preset / "task.json", lambda document: document["config"].update(preprocessor=layer))


def foreign_module(preset: Path) -> None:
    """Names a class of the os module deep inside the config."""
    hostile = {"module": "os", "class_name": "system", "config": {"command": "true"}, "registered_name": None}
    edit(preset / "task.json", lambda document: nested_backbone(document).update(dropout=hostile))


def built_in_function(preset: Path) -> None:
    """Names exec where an activation could stand."""
    hostile = {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"}
    edit(preset / "task.json", lambda document: nested_backbone(document).update(dropout=hostile))


def loader_function(preset: Path) -> None:
    """Names a Keras function that fetches files."""
    hostile = {"module": "keras.utils", "class_name": "get_file", "config": {}, "registered_name": None}
    edit(preset / "task.json", lambda document: nested_backbone(document).update(dropout=hostile))


def config_file(value: str) -> Callable[[Path], None]:
    """Points the tokenizer elsewhere."""

    def change(preset: Path) -> None:
        edit(
            preset / "task.json",
            lambda document: document["config"]["preprocessor"]["config"]["tokenizer"]["config"].update(config_file=value),
        )

    return change


def linked_asset(preset: Path) -> None:
    """Makes the merges a link that leaves the preset."""
    outside = preset.parent / "merges.txt"
    outside.write_text("")
    path = preset / "assets/tokenizer/merges.txt"
    path.unlink()
    path.symlink_to(outside)


def linked_folder(preset: Path) -> None:
    """Makes the assets folder a link that leaves the preset."""
    (preset / "assets").rename(preset.parent / "moved")
    (preset / "assets").symlink_to(preset.parent / "moved")


CASES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no config": (remove("config.json"), "KX410", "config.json"),
    "config is not JSON": (write("config.json", b"{"), "KX411", "config.json"),
    "config is a list": (write("config.json", b"[]"), "KX411", "config.json"),
    "config nests without end": (write("config.json", b'{"a":' * 20_000), "KX411", "config.json"),
    "config is of no known kind": (write("config.json", b"{}"), "KX418", "registered_name"),
    "task is not JSON": (write("task.json", b"\xff\xfe"), "KX411", "task.json"),
    "task has no config": (write("task.json", b'{"class_name": "X"}'), "KX411", "task.json"),
    "config and task disagree": (set_config("config.json", num_layers=1), "KX412", "num_layers"),
    "class of nobody": (set_in("config.json", registered_name="evil>Model"), "KX413", "evil>Model"),
    "lambda": (lambda_layer, "KX414", "Lambda"),
    "os.system": (foreign_module, "KX414", "`os`"),
    "exec": (built_in_function, "KX414", "builtins"),
    "get_file": (loader_function, "KX414", "keras.utils"),
    "absolute config_file": (config_file("/etc/tokenizer.json"), "KX415", "/etc/tokenizer.json"),
    "dotted config_file": (config_file("../other/tokenizer.json"), "KX415", "../other"),
    "link out": (linked_asset, "KX416", "merges.txt"),
    "folder link out": (linked_folder, "KX416", "assets"),
    "no weights": (remove("model.weights.h5"), "KX420", "model.weights.h5"),
    "truncated weights": (truncate, "KX421", "model.weights.h5"),
    "garbage weights": (write("model.weights.h5", b"hello" * 100), "KX421", "model.weights.h5"),
    "empty weights": (write("model.weights.h5", b""), "KX421", "model.weights.h5"),
    "external link": (link_in_weights, "KX427", "layers/dense/vars/0"),
    "external data": (data_outside, "KX427", "layers/dense/vars/0"),
    "weights of another model": (set_in("metadata.json", parameter_count=7), "KX422", "metadata.json"),
    "huge vocabulary": (set_backbones(vocabulary_size=10**7), "KX423", "vocabulary_size"),
    "huge depth": (set_backbones(num_layers=10**6), "KX423", "num_layers"),
    "no merges": (remove("assets/tokenizer/merges.txt"), "KX430", "merges.txt"),
    "no vocabulary": (remove("assets/tokenizer/vocabulary.json"), "KX430", "vocabulary"),
    "vocabulary is not JSON": (write("assets/tokenizer/vocabulary.json", b"{"), "KX411", "vocabulary.json"),
    "vocabulary of strings": (write("assets/tokenizer/vocabulary.json", b'{"a": "b"}'), "KX431", "vocabulary.json"),
    "tokenizer of a larger model": (write("assets/tokenizer/vocabulary.json", b'{"a": 12}'), "KX432", "token id 12"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_preset_is_refused_by_name(name: str, preset: Path) -> None:
    """Every fault has its own code, names what is wrong, and shows a way out; the fault is an input's (exit 4 or 5), not ours."""
    damage, code, named = CASES[name]
    damage(preset)
    error = refusal(preset)
    assert error.code == code
    assert named in error.message
    assert error.exit_code in (InvalidInputError.exit_code, UnsupportedError.exit_code)


def test_dtype_and_name_may_differ_between_config_and_task(preset: Path) -> None:
    """A preset saved in bfloat16 under another name is still one model."""
    edit(preset / "config.json", lambda document: document["config"].update(name="other", trainable=False, dtype="bfloat16"))
    assert open_source(preset).task == "causal-lm"


def test_a_trusted_source_may_link_out_and_bring_code(preset: Path) -> None:
    """--trust-source lifts the refusal of links and of foreign classes, and nothing else."""
    linked_asset(preset)
    foreign_module(preset)
    assert open_source(preset, trust_source=True).has_tokenizer
    config_file("/etc/tokenizer.json")(preset)
    assert refusal(preset, trust_source=True).code == "KX415"


def test_without_the_tokenizer_its_files_do_not_matter(preset: Path) -> None:
    """--no-tokenizer is the way out that the tokenizer's errors promise."""
    (preset / "assets/tokenizer/merges.txt").unlink()
    assert not open_source(preset, tokenizer=False).has_tokenizer


def test_a_hugging_face_cache_folder_is_no_link_out(preset: Path) -> None:
    """Snapshots in a hub cache are links to the cache's own blobs and load like any folder."""
    cache = preset.parent / "models--org--name"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    snapshot.parent.mkdir()
    preset.rename(snapshot)
    for path in [path for path in snapshot.rglob("*") if path.is_file()]:
        blob = cache / "blobs" / path.name
        path.rename(blob)
        path.symlink_to(blob)
    assert open_source(snapshot).has_tokenizer


def test_random_states_are_no_parameters(preset: Path) -> None:
    """A preset trained with dropout also stores seeds; they do not count."""
    write_weights(preset / "model.weights.h5", {**SHAPES, "layers/dropout/seed_generator/vars/0": (2,)})
    assert open_source(preset).parameter_count == (VOCABULARY_SIZE + 2 * HIDDEN) * HIDDEN


@pytest.mark.parametrize("vocabulary", [b"\x00\x01junk" * 50, b""])
def test_a_broken_sentence_piece_vocabulary_is_refused(vocabulary: bytes, preset: Path) -> None:
    """KerasHub would end in a C++ error."""
    assets = preset / "assets/tokenizer"
    (assets / "vocabulary.json").unlink()
    (assets / "vocabulary.spm").write_bytes(vocabulary)
    error = refusal(preset)
    assert (error.code, "vocabulary.spm" in error.message) == ("KX431", True)


@pytest.mark.parametrize(
    ("handle", "code"),
    [
        ("./no/such/preset", "KX404"),
        ("model.keras", "KX404"),
        ("gs://bucket/preset", "KX434"),
        ("hf://org", "KX407"),
        ("hf://org/model/folder", "KX407"),
        ("hf://org/model@revision", "KX407"),
        ("kaggle://org/model", "KX407"),
        ("", "KX403"),
        (b"preset", "KX403"),
    ],
)
def test_a_handle_that_leads_nowhere_is_refused(handle: object, code: str) -> None:
    """Each kind of wrong handle is told apart, without a network and without Keras."""
    assert refusal(handle).code == code


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A file that exists but is no .keras file is not called missing."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"x")
    assert refusal(path).code == "KX403"


def test_an_artifact_is_no_source(preset: Path) -> None:
    """It holds a config.json for other runtimes, and is told apart from a model by its manifest."""
    (preset / "kexport.json").write_text("{}")
    error = refusal(preset)
    assert error.code == "KX403" and "artifact" in error.message


def test_a_decoder_is_no_seq2seq_lm(preset: Path) -> None:
    """A task that contradicts the class is told apart from a preset that is broken."""
    with pytest.raises(UsageError) as caught:
        open_source(preset, task="seq2seq-lm")
    assert caught.value.code == "KX101" and "causal-lm" in caught.value.message


def test_a_hub_that_is_down_is_said_to_be_down(tmp_path: Path) -> None:
    """One attempt, no half a minute of retries, and not KerasHub's "has no config.json"."""
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    attempt = "try: open_source('hf://org/model')\nexcept Exception as error: print(error.code, error.exit_code)"
    code = "from kexport.converter.sources import open_source\n" + attempt
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert done.stdout.split() == ["KX406", "6"]


def test_serialized_backbones_are_compared_deeply(preset: Path) -> None:
    """A difference inside a nested config is named with its path."""
    nested = serialized("Part", {"size": 1})
    set_backbones(vision_encoder=nested)(preset)
    edit(preset / "config.json", lambda document: document["config"]["vision_encoder"]["config"].update(size=2))
    error = refusal(preset)
    assert (error.code, "vision_encoder.config.size" in error.message) == ("KX412", True)
    assert json.loads((preset / "task.json").read_text())["config"]["backbone"]["config"]["vision_encoder"] == nested
