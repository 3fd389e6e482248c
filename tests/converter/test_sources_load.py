"""Every kind of source builds and loads what KerasHub itself would load, and names what does not match."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.converter.checks import check_weights_match, model_layout
from kexport.converter.sources import open_source
from kexport.runtime.contract.errors import InvalidInputError, KexportError

from tests.converter.preset_folder import edit

pytestmark = pytest.mark.slow
IDS = {"token_ids": np.arange(1, 13, dtype="int32").reshape(2, 6), "padding_mask": np.ones((2, 6), bool)}
SHARD_GIGABYTES = 5e-5


@pytest.fixture(scope="module")
def tiny_models() -> Any:
    """The module that builds tiny tasks; importing it imports Keras."""
    from tests.converter import tiny_models

    return tiny_models


@pytest.fixture(scope="module")
def bloom(tiny_models: Any) -> Any:
    """The original."""
    return tiny_models.bloom()


@pytest.fixture(scope="module")
def sources(bloom: Any, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The original in every form it can be given in."""
    root = tmp_path_factory.mktemp("sources")
    tiny_models.save_preset(bloom, root / "preset")
    tiny_models.save_preset(bloom, root / "sharded", max_shard_size=SHARD_GIGABYTES)
    tiny_models.save_preset(bloom.backbone, root / "backbone")
    bloom.save(str(root / "bloom.keras"))
    return {
        "preset": root / "preset",
        "sharded": root / "sharded",
        "backbone": root / "backbone",
        "archive": root / "bloom.keras",
        "object": bloom,
    }


@pytest.fixture
def preset(sources: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the preset to damage."""
    return Path(shutil.copytree(sources["preset"], tmp_path / "copy"))


def refusal(action: Any) -> KexportError:
    """The error that `action` ends with."""
    with pytest.raises(KexportError) as caught:
        action()
    return caught.value


@pytest.mark.parametrize("form", ["preset", "sharded", "backbone", "archive", "object"])
def test_every_form_loads_the_original(form: str, sources: dict[str, Any], bloom: Any) -> None:
    """The loaded task is the stock class with the same logits; count and config agree with the model."""
    source = open_source(sources[form])
    task = source.load()
    assert type(task) is type(bloom)
    np.testing.assert_array_equal(np.asarray(task(IDS)), np.asarray(bloom(IDS)))
    assert source.parameter_count == bloom.backbone.count_params()
    assert source.config["num_layers"] == bloom.backbone.num_layers
    assert (task.preprocessor is not None) == source.has_tokenizer == (form != "backbone")


@pytest.mark.parametrize("form", ["preset", "sharded", "archive"])
def test_building_and_loading_are_two_steps(form: str, sources: dict[str, Any], bloom: Any) -> None:
    """`build` leaves random weights, `load_weights_into` fills them: what the abstract path records."""
    source = open_source(sources[form])
    task = source.build()
    assert not np.array_equal(np.asarray(task(IDS)), np.asarray(bloom(IDS)))
    source.load_weights_into(task)
    np.testing.assert_array_equal(np.asarray(task(IDS)), np.asarray(bloom(IDS)))


def test_every_form_goes_through_the_abstract_path(sources: dict[str, Any], tiny_models: Any, tmp_path: Path, bloom: Any) -> None:
    """Built without buffers and loaded by recording, every weight is found by reference and equals the original's bytes."""
    from kexport.graphs.capture.abstract import abstract_weights
    from kexport.graphs.capture.names import parameter_name
    from kexport.graphs.capture.recorded import recording

    gemma = tiny_models.gemma()
    gemma.export_to_transformers(str(tmp_path))
    edit(tmp_path / "config.json", lambda config: config.update(architectures=["GemmaForCausalLM"]))
    forms = [(sources["preset"], bloom), (sources["sharded"], bloom), (sources["archive"], bloom), (tmp_path, gemma)]
    for path, original in forms:
        source = open_source(path)
        with abstract_weights(smallest_matrix=0):
            task = source.build()
        with recording() as recorded:
            source.load_weights_into(task)
        weights = recorded.source(task.backbone.variables)
        pairs = list(zip(task.backbone.variables, original.backbone.variables, strict=True))
        assert len(pairs) > 10
        for variable, expected in pairs:
            np.testing.assert_array_equal(weights.read(parameter_name(variable)), np.asarray(expected.value))


@pytest.mark.parametrize("form", ["preset", "archive", "object"])
def test_a_backbone_can_be_asked_for(form: str, sources: dict[str, Any], bloom: Any) -> None:
    """--task backbone gives the backbone alone, with the task's weights."""
    backbone = open_source(sources[form], task="backbone").load()
    assert type(backbone) is type(bloom.backbone)
    np.testing.assert_array_equal(np.asarray(backbone(IDS)), np.asarray(bloom.backbone(IDS)))


@pytest.mark.parametrize("form", ["preset", "archive"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_compute_dtype_is_the_one_asked_for(form: str, dtype: str, sources: dict[str, Any]) -> None:
    """As from_preset(dtype=...), whatever the checkpoint was saved in."""
    task = open_source(sources[form]).build(dtype=dtype)
    assert (task.backbone.compute_dtype, task.backbone.variable_dtype) == (dtype, dtype)


@pytest.mark.parametrize("form", ["preset", "archive"])
def test_a_tokenizer_can_be_left_out(form: str, sources: dict[str, Any], bloom: Any) -> None:
    """--no-tokenizer: the task has no preprocessor and the same weights."""
    task = open_source(sources[form], tokenizer=False).load()
    assert task.preprocessor is None
    np.testing.assert_array_equal(np.asarray(task(IDS)), np.asarray(bloom(IDS)))


def test_a_bfloat16_checkpoint_says_so(tiny_models: Any, tmp_path: Path) -> None:
    """The dtype is read from the file; the model is built in float32 unless asked otherwise."""
    task = open_source(tiny_models.save_preset(tiny_models.bloom(), tmp_path / "float32")).load(dtype="bfloat16")
    source = open_source(tiny_models.save_preset(task, tmp_path / "bfloat16"))
    assert source.dtype == "bfloat16"
    assert source.load().backbone.variable_dtype == "float32"


def test_bart_is_a_seq2seq_source(tiny_models: Any, tmp_path: Path) -> None:
    """Encoder and decoder come back, from a preset and from an archive."""
    bart = tiny_models.bart()
    tiny_models.save_preset(bart, tmp_path / "bart")
    bart.save(str(tmp_path / "bart.keras"))
    inputs = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in IDS.items()}
    for form in ("bart", "bart.keras"):
        source = open_source(tmp_path / form)
        assert source.task == "seq2seq-lm"
        np.testing.assert_array_equal(np.asarray(source.load()(inputs)), np.asarray(bart(inputs)))


@pytest.mark.parametrize(("layers", "verb"), [(1, "holds"), (3, "lacks")])
def test_another_number_of_layers_is_refused(layers: int, verb: str, preset: Path) -> None:
    """Both configs edited alike: KerasHub would drop the second layer in silence; here the variables are named."""
    edit(preset / "config.json", lambda document: document["config"].update(num_layers=layers))
    edit(preset / "task.json", lambda document: document["config"]["backbone"]["config"].update(num_layers=layers))
    error = refusal(lambda: open_source(preset).load())
    assert error.code == "KX422"
    assert f"model.weights.h5 {verb}" in error.message and f"bloom_decoder_{min(layers, 2)}" in error.message


def test_a_wrong_shape_is_named(preset: Path) -> None:
    """Not "a total of 13 objects could not be loaded", but the variable and both shapes."""
    edit(preset / "config.json", lambda document: document["config"].update(intermediate_dim=48))
    edit(preset / "task.json", lambda document: document["config"]["backbone"]["config"].update(intermediate_dim=48))
    error = refusal(lambda: open_source(preset).load())
    assert error.code == "KX423"
    assert "(16, 32)" in error.message and "(16, 48)" in error.message


def test_a_config_that_keras_cannot_build_is_an_input_error(preset: Path) -> None:
    """Keras's own complaint reaches the user as one line with a hint."""
    for name, change in [
        ("config.json", lambda document: document["config"].update(num_heads="many")),
        ("task.json", lambda document: document["config"]["backbone"]["config"].update(num_heads="many")),
    ]:
        edit(preset / name, change)
    assert refusal(lambda: open_source(preset).build()).code == "KX419"


def test_a_vocabulary_without_the_special_tokens_is_an_input_error(preset: Path) -> None:
    """KerasHub names the token; the error carries it."""
    edit(preset / "assets/tokenizer/vocabulary.json", lambda vocabulary: vocabulary.pop("<s>"))
    error = refusal(lambda: open_source(preset).build())
    assert (error.code, "special token" in error.message) == ("KX419", True)


def test_a_class_of_a_newer_keras_hub_is_unsupported(preset: Path) -> None:
    """A registered name that the installed keras-hub does not know."""
    for name in ("config.json", "task.json"):
        edit(preset / name, lambda document: document.update(registered_name="keras_hub>FutureThing"))
    error = refusal(lambda: open_source(preset).build())
    assert (error.code, error.exit_code) == ("KX413", 4)


def test_a_flipped_bit_in_an_archive_is_found(sources: dict[str, Any], tmp_path: Path) -> None:
    """The zip's checksums are compared before the weights are used."""
    path = tmp_path / "flipped.keras"
    content = bytearray(sources["archive"].read_bytes())
    weights = np.asarray(open_source(sources["object"]).load().backbone.token_embedding.embeddings).tobytes()
    position = content.find(weights[:64])
    assert position > 0, "the archive stores its members uncompressed"
    content[position + 7] ^= 0x10
    path.write_bytes(content)
    assert refusal(lambda: open_source(path).load()).code == "KX426"


def test_the_layout_is_the_one_keras_saves(bloom: Any, sources: dict[str, Any]) -> None:
    """Path for path and shape for shape, for a preset's file and for an archive's."""
    for form, model in [("preset", bloom.backbone), ("archive", bloom)]:
        stored = open_source(sources[form]).weights.shapes
        assert model_layout(model) == stored
        check_weights_match(model, stored, "file")
    with pytest.raises(InvalidInputError, match="holds 1 variables"):
        check_weights_match(bloom.backbone, {**model_layout(bloom.backbone), "layers/extra/vars/0": (1,)}, "file")


def test_a_live_object_is_not_rebuilt(bloom: Any) -> None:
    """The very object comes back, also when its tokenizer is not wanted."""
    assert open_source(bloom).load() is bloom
    assert open_source(bloom, tokenizer=False).build() is bloom


def test_what_is_no_generative_model_is_refused() -> None:
    """A plain Keras model, or any other object."""
    import keras

    for thing in (keras.Sequential([keras.layers.Dense(1)]), 3, None, ["preset"]):
        assert refusal(lambda thing=thing: open_source(thing)).code == "KX417"


def test_an_unknown_id_suggests_its_neighbours() -> None:
    """A typing mistake in a preset id."""
    error = refusal(lambda: open_source("gemma_2b_em"))
    assert (error.code, "gemma_2b_en" in error.hint) == ("KX405", True)


def test_a_transformers_directory_loads_through_keras_hubs_converter(tiny_models: Any, tmp_path: Path) -> None:
    """A Gemma exported to the transformers layout comes back with the same logits and the same tokenizer."""
    gemma = tiny_models.gemma()
    gemma.export_to_transformers(str(tmp_path))
    assert refusal(lambda: open_source(tmp_path)).code == "KX411", "keras-hub 0.32 exports no `architectures`, which its loader needs"
    edit(tmp_path / "config.json", lambda config: config.update(architectures=["GemmaForCausalLM"]))
    source = open_source(tmp_path)
    assert (source.kind, source.task, source.has_tokenizer) == ("transformers", "causal-lm", True)
    task = source.load()
    np.testing.assert_array_equal(np.asarray(task(IDS)), np.asarray(gemma(IDS)))
    assert task.preprocessor.tokenizer.tokenize("hello").tolist() == gemma.preprocessor.tokenizer.tokenize("hello").tolist()
    assert source.parameter_count == gemma.backbone.count_params()
