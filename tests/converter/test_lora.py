"""Models with adapters: live ones convert as they stand, files of `save_lora_weights` are merged or kept apart, and wrong files are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime, targets
from kexport.converter.conversion import convert, convert_all
from kexport.converter.options import make_options
from kexport.converter.verification import verify_artifact
from kexport.runtime.contract.errors import InvalidInputError, KexportError
from kexport.runtime.contract.manifest_io import read_manifest
from kexport.runtime.contract.progress import SilentReporter

from tests.seed_models import DISTINCT, MODELS, NEW_TOKENS

pytestmark = pytest.mark.slow
SEEDS = ["gemma", "bart"]


def says(directory: Path, name: str, adapter: str | None = None) -> list[list[int]]:
    """64 greedy tokens of the artifact for the seed model's prompts."""
    from tests.stock_models import inputs_of

    with runtime.load(directory, preprocessor=None, allow_unverified=True) as model:
        model.compile(sampler="greedy")
        if adapter is not None:
            model.set_adapter(adapter)
        outputs = model.generate(inputs_of(MODELS[name]), stop_token_ids=None)
    rows: list[list[int]] = outputs["decoder_token_ids" if "decoder_token_ids" in outputs else "token_ids"].tolist()
    return rows


def state(task: Any) -> dict[str, Any]:
    """What a conversion must leave alone."""
    adapters = [sorted((name, str(value)) for name, value in vars(layer).items() if "lora" in name) for layer in task._flatten_layers()]
    return {
        "numbers": {variable.path: np.array(variable.value) for variable in task.variables},
        "trainable": {variable.path: variable.trainable for variable in task.weights},
        "layers": [layer._trainable for layer in task._flatten_layers()],
        "adapters": adapters,
        "sampler": task.sampler,
        "function": task.generate_function,
    }


def assert_left_as_found(task: Any, before: dict[str, Any]) -> None:
    """The task is in the state `before`."""
    after = state(task)
    assert after.keys() == before.keys() and after["numbers"].keys() == before["numbers"].keys()
    assert all(np.array_equal(after["numbers"][path], numbers) for path, numbers in before["numbers"].items())
    assert all(after[key] == before[key] for key in before if key != "numbers")


# ---- live models


@pytest.mark.parametrize("name", SEEDS)
def test_a_live_model_with_lora_converts_as_it_stands(name: str, tmp_path: Path) -> None:
    """Its artifact says what the live object says, has no operators for adapters, and the object is left as found."""
    from tests.converter.lora_models import adapted, tokens
    from tests.stock_models import build

    task = adapted(name)
    expected, before = tokens(task, MODELS[name]), state(task)
    assert expected != tokens(build(MODELS[name]), MODELS[name])
    assert all(len(set(row[-NEW_TOKENS:])) >= DISTINCT for row in expected)
    made = convert(task, output=tmp_path / "out", max_length=96)
    assert made.manifest.parity.verdict == "proven" and made.manifest.parity.near_ties == 0
    assert says(tmp_path / "out", name) == expected
    assert_left_as_found(task, before)
    base = convert(build(MODELS[name]), output=tmp_path / "base", max_length=96, verify="none")
    assert made.manifest.ops == base.manifest.ops


@pytest.mark.parametrize(("family", "layers"), [("falcon", None), ("smollm3", ["q_proj", "v_proj"]), ("gemma3", None)])
def test_other_families_and_names_that_repeat(family: str, layers: list[str] | None, tmp_path: Path) -> None:
    """Other names of layers, and variables of the same path in every block: each layer gets its own update, live and from a file."""
    from tests.converter.lora_models import fill_adapter
    from tests.zoo import ZOO

    task, file = ZOO[family].build(), tmp_path / "its.lora.h5"
    task.backbone.enable_lora(3, target_layer_names=layers)
    fill_adapter(task, 0)
    task.backbone.save_lora_weights(str(file))
    before = state(task)
    live = convert(task, output=tmp_path / "live", max_length=48)
    assert live.manifest.parity.verdict == "proven" and live.manifest.parity.near_ties == 0
    assert_left_as_found(task, before)
    apart = convert(ZOO[family].build(), output=tmp_path / "apart", max_length=48, lora=file, lora_mode="separate")
    (record,) = apart.manifest.adapters
    assert record.parity.verdict == apart.manifest.parity.verdict == "proven"
    assert record.parity.cases[0].expected == live.manifest.parity.cases[0].expected != apart.manifest.parity.cases[0].expected


@pytest.mark.parametrize("with_lora", [False, True])
def test_a_model_just_fitted_converts_as_it_stands(with_lora: bool, tmp_path: Path) -> None:
    """After `fit()` the object holds an optimizer, metrics and compiled functions; its artifact says what it says."""
    import keras

    from tests.converter.lora_models import fill_adapter, tokens
    from tests.stock_models import build, inputs_of

    model = MODELS["gemma"]
    task = build(model)
    untrained = tokens(task, model)
    if with_lora:
        task.backbone.enable_lora(4)
        fill_adapter(task, 0)
    task.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(0.01),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    inputs = inputs_of(model)
    task.fit(inputs, np.roll(inputs["token_ids"], -1, axis=1), batch_size=2, epochs=1, verbose=0)
    expected, before = tokens(task, model), state(task)
    assert expected != untrained
    made = convert(task, output=tmp_path / "out", max_length=96)
    assert made.manifest.parity.verdict == "proven" and made.manifest.parity.near_ties == 0
    assert says(tmp_path / "out", "gemma") == expected
    assert_left_as_found(task, before)


def test_whole_rows_have_the_adapter(adapter: Any, tmp_path: Path) -> None:
    """Scores and backbones, too, are those of the object with its adapter, of its own or from a file."""
    from tests.converter.lora_models import adapted
    from tests.stock_models import build

    given = {"max_length": 96, "signatures": ("score",)}
    live = convert(adapted("gemma"), output=tmp_path / "live", **given)
    from_file = convert(build(MODELS["gemma"]), output=tmp_path / "file", lora=adapter("gemma"), **given)
    backbone = convert(adapted("gemma"), output=tmp_path / "backbone", task="backbone")
    assert {made.manifest.parity.verdict for made in (live, from_file, backbone)} == {"proven"}


def test_alpha_scales_what_is_merged(tmp_path: Path) -> None:
    """Layers that were given an alpha of their own add alpha / rank times their product."""
    from kexport.graphs.capture.lora import lora_layers

    from tests.converter.lora_models import adapted, tokens

    task = adapted("gemma")
    unscaled = tokens(task, MODELS["gemma"])
    for layer in lora_layers(task):
        layer.lora_alpha = 6.0
    made = convert(task, output=tmp_path / "out", max_length=96)
    assert made.manifest.parity.verdict == "proven"
    assert says(tmp_path / "out", "gemma") == tokens(task, MODELS["gemma"]) != unscaled


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_storage_rounds_the_merged_weights(dtype: str, tmp_path: Path) -> None:
    """What is stored is the rounded sum of kernel and update, and the live object is the oracle over these sums."""
    from tests.converter.lora_models import adapted

    task = adapted("gemma")
    before = state(task)
    made = convert(task, output=tmp_path / "out", max_length=96, dtype=dtype)
    assert made.manifest.parity.verdict == "proven"
    assert_left_as_found(task, before)


# ---- files, merged


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name -> the preset directory of a seed model, saved once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            from tests.stock_models import save_preset

            made[name] = tmp_path_factory.mktemp("preset") / name
            save_preset(MODELS[name], made[name])
        return made[name]

    return get


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """name -> the file of a seed model's adapter, as KerasHub saves it."""
    made: dict[str, Path] = {}

    def get(name: str, **options: Any) -> Path:
        key = f"{name}{options}"
        if key not in made:
            from tests.converter.lora_models import save_adapter

            made[key] = save_adapter(name, tmp_path_factory.mktemp("adapter") / f"my {name}.lora.h5", **options)
        return made[key]

    return get


@pytest.mark.parametrize(("name", "layers"), [("gemma", None), ("bart", None), ("gemma", ["query", "attention_output", "value"])])
def test_a_file_is_merged_into_a_preset(name: str, layers: list[str] | None, preset: Any, adapter: Any, tmp_path: Path) -> None:
    """The artifact says what KerasHub says with the file loaded; other layers than the default ones are found by their indices."""
    from tests.converter.lora_models import adapted, tokens

    task = adapted(name, targets=layers)
    file = adapter(name, targets=layers)
    made = convert(preset(name), output=tmp_path / "out", max_length=96, lora=file)
    assert made.manifest.parity.verdict == "proven" and made.manifest.parity.near_ties == 0
    assert says(tmp_path / "out", name) == tokens(task, MODELS[name])
    (record,) = made.manifest.adapters
    assert (record.name, record.source, record.rank, record.alpha, record.mode) == (f"my_{name}", file.name, 4, 4.0, "merge")


def test_every_target_takes_a_merged_adapter(preset: Any, adapter: Any, tmp_path: Path) -> None:
    """The original is asked once, with the adapter; each target says what it says."""
    outcomes = convert_all(preset("gemma"), "all", tmp_path / "out", max_length=96, lora=adapter("gemma"))
    assert [(outcome.target, outcome.error) for outcome in outcomes] == [(target, None) for target in targets.known()]
    assert {outcome.artifact.manifest.parity.verdict for outcome in outcomes if outcome.artifact} == {"proven"}


def test_merging_a_file_writes_the_live_objects_bytes(preset: Any, adapter: Any, tmp_path: Path) -> None:
    """A preset with a file, and the live object that the file was saved from, give the same model files."""
    from tests.converter.lora_models import adapted

    from_file = convert(preset("gemma"), output=tmp_path / "file", max_length=96, lora=adapter("gemma"), verify="none")
    live = convert(adapted("gemma"), output=tmp_path / "live", max_length=96, verify="none")
    digests = [{file.path: file.sha256 for file in made.manifest.files if file.path.startswith("model.")} for made in (from_file, live)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("enabled", [False, True])
def test_a_file_on_a_live_model_leaves_it_as_found(enabled: bool, adapter: Any, tmp_path: Path) -> None:
    """With or without LoRA of its own, the object gets its own numbers, switches and variables back."""
    from tests.converter.lora_models import adapted, fill_adapter, tokens
    from tests.stock_models import build

    task = build(MODELS["bart"])
    task.backbone.get_layer("transformer_decoder_layer_0").trainable = False
    if enabled:
        task.backbone.enable_lora(4)
        fill_adapter(task, 7)
    before, said = state(task), tokens(task, MODELS["bart"])
    convert(task, output=tmp_path / "out", max_length=96, lora=adapter("bart"))
    assert_left_as_found(task, before)
    assert tokens(task, MODELS["bart"]) == said
    assert says(tmp_path / "out", "bart") == tokens(adapted("bart"), MODELS["bart"]) != said


def test_a_streamed_oracle_and_narrow_storage_take_a_file(preset: Any, adapter: Any, tmp_path: Path) -> None:
    """--verify stream merges the adapter into the weights that it reads; narrow storage rounds the sums."""
    streamed = convert(preset("gemma"), output=tmp_path / "stream", max_length=96, lora=adapter("gemma"), verify="stream")
    assert streamed.manifest.parity.verdict == "proven-steps" and "adapter" in streamed.manifest.parity.oracle
    narrow = convert(preset("gemma"), output=tmp_path / "narrow", max_length=96, lora=adapter("gemma"), dtype="bfloat16")
    assert narrow.manifest.parity.verdict == "proven"


def test_verify_wants_the_same_adapter(preset: Any, adapter: Any, tmp_path: Path) -> None:
    """An artifact with an adapter is verified with that file only, one without with none."""
    out, plain = tmp_path / "out", tmp_path / "plain"
    convert(preset("gemma"), output=out, max_length=96, lora=adapter("gemma"), verify="none")
    convert(preset("gemma"), output=plain, max_length=96, verify="none")
    verify = partial(verify_artifact, source=str(preset("gemma")), depth=None, trust_source=False, reporter=SilentReporter())
    assert verify(out, lora=[adapter("gemma")]).verdict == "proven"
    for artifact, given in ((out, []), (out, [adapter("gemma", rank=2)]), (plain, [adapter("gemma")])):
        with pytest.raises(InvalidInputError) as caught:
            verify(artifact, lora=given)
        assert caught.value.code == "KX367"


# ---- files that are refused


def edited(file: Path, place: Path, change: Callable[[Any], None]) -> Path:
    """A copy of an adapter file after `change(h5py file)`."""
    import h5py

    shutil.copyfile(file, place)
    with h5py.File(place, "r+") as opened:
        change(opened)
    return place


def zero(opened: Any) -> None:
    for index in [key for key in opened["lora"] if key != "vars"]:
        opened[f"lora/{index}/vars/lora_kernel_b"][...] = 0


def forget_layers(opened: Any) -> None:
    for index in [key for key in opened["lora"] if key != "vars"]:
        del opened[f"lora/{index}"]


def forget_one_layer(opened: Any) -> None:
    del opened[f"lora/{max((key for key in opened['lora'] if key != 'vars'), key=int)}"]


def another_rank(opened: Any) -> None:
    opened["lora/vars/rank"][...] = 8


def not_a_number(opened: Any) -> None:
    index = next(key for key in opened["lora"] if key != "vars")
    opened[f"lora/{index}/vars/lora_kernel_b"][0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "code"),
    [(zero, "KX364"), (forget_layers, "KX363"), (forget_one_layer, "KX362"), (another_rank, "KX361"), (not_a_number, "KX425")],
)
def test_broken_adapters_are_refused(change: Any, code: str, preset: Any, adapter: Any, tmp_path: Path) -> None:
    """Each kind of wrong file has its own error, which names the file."""
    file = edited(adapter("gemma"), tmp_path / "broken.lora.h5", change)
    with pytest.raises(InvalidInputError) as caught:
        convert(preset("gemma"), output=tmp_path / "out", max_length=96, lora=file)
    assert caught.value.code == code and "broken.lora.h5" in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"no HDF5 file", "weights"])
def test_what_is_no_adapter_file_is_refused(content: Any, preset: Any, tmp_path: Path) -> None:
    """A missing file, other bytes, and a file of whole weights."""
    file = tmp_path / "x.lora.h5"
    if content == "weights":
        file = preset("gemma") / "model.weights.h5"
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInputError) as caught:
        convert(preset("gemma"), output=tmp_path / "out", lora=file)
    assert caught.value.code == "KX360"


@pytest.mark.parametrize("other", ["mistral", "bart", "gemma_multi_query"])
def test_an_adapter_of_another_model_is_refused(other: str, preset: Any, adapter: Any, tmp_path: Path) -> None:
    """Indices of layers that take no adapter, too few or too many layers, or kernels of other shapes."""
    with pytest.raises(InvalidInputError) as caught:
        convert(preset("gemma"), output=tmp_path / "out", max_length=96, lora=adapter(other))
    assert caught.value.code == "KX362"


def test_a_live_model_of_another_rank_is_refused(adapter: Any, tmp_path: Path) -> None:
    """As KerasHub refuses it."""
    from tests.converter.lora_models import adapted

    with pytest.raises(InvalidInputError) as caught:
        convert(adapted("gemma", rank=2), output=tmp_path / "out", max_length=96, lora=adapter("gemma"))
    assert caught.value.code == "KX361"


def test_options_that_do_not_fit_are_refused_before_any_work() -> None:
    """--lora-mode without --lora, an unknown mode, and targets without adapters at run time."""
    for given, code in (
        ({"lora_mode": "separate"}, "KX108"),
        ({"lora": "x", "lora_mode": "both"}, "KX104"),
        ({"lora": "x", "lora_mode": "separate", "target": "tflite"}, "KX365"),
        ({"lora": "x", "lora_mode": "separate", "target": "onnx,savedmodel"}, "KX365"),
        ({"lora": ["x.lora.h5", "y.lora.h5"]}, "KX368"),
        ({"lora": ["x.lora.h5", "y.lora.h5"], "lora_mode": "merge"}, "KX368"),
        ({"lora": ["a/x.lora.h5", "b/X.h5"], "lora_mode": "separate"}, "KX369"),
    ):
        with pytest.raises(KexportError) as caught:
            make_options(**given)
        assert caught.value.code == code
    assert make_options(lora="x").lora_files == make_options(lora=["x"]).lora_files == ("x",) and make_options(lora=()).lora_files == ()


# ---- adapters kept apart


def sessions(directory: Path, name: str, *adapters: str | None) -> dict[str | None, list[list[int]]]:
    """What one opened artifact says as it is, with each of its adapters, and without them again."""
    from tests.stock_models import inputs_of

    said: dict[str | None, list[list[int]]] = {}
    with runtime.load(directory, preprocessor=None, allow_unverified=True) as model:
        model.compile(sampler="greedy")
        for adapter in (None, *(adapters or (f"my_{name}",)), None):
            model.set_adapter(adapter)
            outputs = model.generate(inputs_of(MODELS[name]), stop_token_ids=None)
            rows = outputs["decoder_token_ids" if "decoder_token_ids" in outputs else "token_ids"].tolist()
            assert said.setdefault(adapter, rows) == rows and model.adapter == adapter
    return said


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["bart", "mistral_head_dim"])
def test_an_adapter_is_chosen_at_run_time(name: str, target: str, preset: Any, adapter: Any, tmp_path: Path) -> None:
    """The files are the base model's; both it and the adapter are proven, and one opened artifact goes from one to the other and back."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(target, target))
    from tests.converter.lora_models import adapted, tokens
    from tests.stock_models import build

    made = convert(preset(name), target=target, output=tmp_path / "out", max_length=96, lora=adapter(name), lora_mode="separate")
    (record,) = made.manifest.adapters
    assert made.manifest.parity.verdict == record.parity.verdict == "proven"
    assert made.manifest.parity.near_ties == record.parity.near_ties == 0
    assert record.file == f"adapters/my_{name}.safetensors" and record.file in {file.path for file in made.manifest.files}
    base, with_adapter = tokens(build(MODELS[name]), MODELS[name]), tokens(adapted(name), MODELS[name])
    assert sessions(tmp_path / "out", name) == {None: base, f"my_{name}": with_adapter} and base != with_adapter


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_one_of_several_adapters_is_chosen(target: str, preset: Any, adapter: Any, tmp_path: Path) -> None:
    """Two files of two ranks for other layers: each has a certificate, steps and scores are those of the one that is set, and `verify`, which renews all
    certificates, takes the files in any order under any name, but each of them."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(target, target))
    from tests.converter.lora_models import adapted, tokens
    from tests.graphs.capture.test_forward import ragged
    from tests.seed_models import VOCABULARY
    from tests.stock_models import build

    layers = ["query", "attention_output", "value"]
    first, second = adapter("gemma"), shutil.copy(adapter("gemma", rank=2, targets=layers), tmp_path / "second.lora.h5")
    out, rows = tmp_path / "out", ragged(VOCABULARY, 11)
    given: dict[str, Any] = {"lora": [first, second], "lora_mode": "separate", "signatures": ("score",), "verify": "none" if target == "onnx" else None}
    convert(preset("gemma"), target=target, output=out, max_length=96, **given)
    verify = partial(verify_artifact, out, str(preset("gemma")), None, trust_source=False, reporter=SilentReporter())
    if target == "onnx":
        verify(lora=[shutil.copy(second, tmp_path / "renamed.h5"), first])
    manifest = read_manifest(out)
    assert [(record.name, record.rank, record.parity.verdict) for record in manifest.adapters] == [("my_gemma", 4, "proven"), ("second", 2, "proven")]
    assert manifest.parity.verdict == "proven" and all(0 < record.parity.max_logit_difference["score"] < 1e-3 for record in manifest.adapters)
    assert len(manifest.adapters[0].tensors) < len(manifest.adapters[1].tensors)
    originals = {None: build(MODELS["gemma"]), "my_gemma": adapted("gemma"), "second": adapted("gemma", 2, layers)}
    said = {name: tokens(task, MODELS["gemma"]) for name, task in originals.items()}
    assert sessions(out, "gemma", "my_gemma", "second", "my_gemma") == said and len({str(rows) for rows in said.values()}) == len(said)
    with runtime.load(out, preprocessor=None) as model:
        for name in ("second", None, "my_gemma", "second"):  # opened while an adapter is set, and after
            model.set_adapter(name)
            theirs = np.asarray(originals[name](rows))
            assert np.abs(model.score(**rows) - theirs).max() < 1e-4 * (theirs.max() - theirs.min())
    for files in ([first], [first, adapter("gemma", rank=3)], []):
        with pytest.raises(InvalidInputError) as caught:
            verify(lora=files)
        assert caught.value.code == "KX367"


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_backbone_takes_an_adapter_at_run_time(target: str, adapter: Any, tmp_path: Path) -> None:
    """Its outputs are the original's with the adapter and without it; a damaged file is refused and leaves it as it was."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(target, target))
    from tests.converter.lora_models import adapted
    from tests.graphs.capture.test_forward import ragged
    from tests.seed_models import VOCABULARY
    from tests.stock_models import build

    rows, base, out = ragged(VOCABULARY, 12), build(MODELS["gemma"]).backbone, tmp_path / "out"
    made = convert(base, target=target, output=out, task="backbone", lora=adapter("gemma"), lora_mode="separate")
    assert [made.manifest.parity.verdict, made.manifest.adapters[0].parity.verdict] == ["proven", "proven"]
    originals = {None: base, "my_gemma": adapted("gemma").backbone}
    with runtime.load(out) as model:
        for name in ("my_gemma", None, "my_gemma"):
            model.set_adapter(name)
            theirs = np.asarray(originals[name](rows))
            assert model.adapter == name and np.abs(model(rows) - theirs).max() < 1e-4 * (theirs.max() - theirs.min())
        model.set_adapter(None)
        said = model(rows)
        (out / "adapters" / "my_gemma.safetensors").write_bytes(b"nothing")
        with pytest.raises(InvalidInputError) as caught:
            model.set_adapter("my_gemma")
        assert caught.value.code == "KX371" and model.adapter is None and np.array_equal(model(rows), said)


def test_prompts_with_images_have_the_adapter(tmp_path: Path) -> None:
    """The tower and the prefill of an image's tokens give, with the adapter set, what they give where it is merged."""
    from tests.converter.lora_models import fill_adapter
    from tests.zoo import ZOO

    task, file = ZOO["gemma3, images"].build(), tmp_path / "its.lora.h5"
    task.backbone.enable_lora(3)
    fill_adapter(task, 0)
    task.backbone.save_lora_weights(str(file))
    given = {"max_length": 48, "lora": file, "verify": "none"}
    merged = convert(ZOO["gemma3, images"].build(), output=tmp_path / "merged", **given)
    apart = convert(ZOO["gemma3, images"].build(), output=tmp_path / "apart", lora_mode="separate", **given)
    ids = np.arange(3, 13)[None]
    feeds = {"pixel_values": np.random.default_rng(3).random((1, 16, 16, 3)), "token_ids": ids, "vision_mask": (ids > 5) & (ids < 10)}

    def gives(directory: Path, adapter: str | None) -> dict[str, Any]:
        with runtime.load(directory, preprocessor=None, allow_unverified=True) as model:
            model.set_adapter(adapter)
            seen = model.forward.run("vision", feeds)
            placed = np.zeros((1, 10, seen["image_embeddings"].shape[-1]))
            placed[0, 3:7] = seen["image_embeddings"][0]
            return seen | model.forward.run("prefill_images", {**feeds, "image_embeddings": placed})

    assert [signature.name for signature in merged.manifest.signatures if signature.name in ("vision", "prefill_images")] == ["vision", "prefill_images"]
    expected, chosen, base = gives(merged.directory, None), gives(apart.directory, "its"), gives(apart.directory, None)
    for name, array in expected.items():
        assert np.abs(chosen[name] - array).max() <= 1e-5 * np.abs(array).max()
    assert any(np.abs(base[name] - array).max() > 0.01 * np.abs(array).max() for name, array in expected.items())


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_adapter_is_added_to_narrow_weights(dtype: str, target: str, preset: Any, adapter: Any, tmp_path: Path) -> None:
    """The sums are rounded as the weights are stored, and both sides are proven over the rounded numbers."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(target, target))
    given = {"target": target, "output": tmp_path / "out", "max_length": 96, "dtype": dtype}
    made = convert(preset("gemma"), lora=adapter("gemma"), lora_mode="separate", **given)
    assert [made.manifest.parity.verdict, made.manifest.adapters[0].parity.verdict] == ["proven", "proven"]


def test_the_numbers_are_those_of_a_merged_artifact(preset: Any, adapter: Any, tmp_path: Path) -> None:
    """What the engine makes of base and adapter at run time equals, bit for bit, what merging writes."""
    from kexport.runtime.adapters import changed_tensors

    apart = convert(preset("gemma"), output=tmp_path / "apart", max_length=96, lora=adapter("gemma"), lora_mode="separate", verify="none")
    convert(preset("gemma"), output=tmp_path / "merged", max_length=96, lora=adapter("gemma"), verify="none")
    merged = (tmp_path / "merged" / "model.onnx.data").read_bytes()
    base = (tmp_path / "apart" / "model.onnx.data").read_bytes()
    changed = list(changed_tensors(tmp_path / "apart", apart.manifest.adapters[0], "model.onnx"))
    assert len(changed) == MODELS["gemma"].config["num_layers"]  # query, key and value are one tensor
    for tensor, array in changed:
        assert merged[tensor.offset : tensor.offset + array.nbytes] == array.tobytes() != base[tensor.offset : tensor.offset + array.nbytes]


def test_a_file_takes_the_place_of_a_live_models_own_adapter(adapter: Any, tmp_path: Path) -> None:
    """Kept apart, the base is the object without its own adapter, and the adapter is the file's."""
    from tests.converter.lora_models import adapted, fill_adapter, tokens
    from tests.stock_models import build

    task = adapted("gemma")
    fill_adapter(task, 7)
    before = state(task)
    convert(task, output=tmp_path / "out", max_length=96, lora=adapter("gemma"), lora_mode="separate")
    assert_left_as_found(task, before)
    base, with_adapter = (tokens(made, MODELS["gemma"]) for made in (build(MODELS["gemma"]), adapted("gemma")))
    assert sessions(tmp_path / "out", "gemma") == {None: base, "my_gemma": with_adapter}


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_an_adapter_that_does_not_fit_leaves_the_model_open(target: str, preset: Any, adapter: Any, tmp_path: Path) -> None:
    """A damaged adapter file is refused before the base model is given up."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(target, target))
    out, given = tmp_path / "out", {"lora": adapter("gemma"), "lora_mode": "separate"}
    convert(preset("gemma"), target=target, output=out, max_length=96, verify="none", **given)
    with runtime.load(out, preprocessor=None, allow_unverified=True) as model:
        model.compile(sampler="greedy")
        prompt = {"token_ids": [[5, 9, 3, 0, 0, 0]], "padding_mask": [[1, 1, 1, 0, 0, 0]]}
        said = model.generate(prompt, stop_token_ids=None)["token_ids"].tolist()
        (out / "adapters" / "my_gemma.safetensors").write_bytes(b"nothing")
        with pytest.raises(InvalidInputError) as caught:
            model.set_adapter("my_gemma")
        assert caught.value.code == "KX371" and model.adapter is None
        assert model.generate(prompt, stop_token_ids=None)["token_ids"].tolist() == said


def test_a_streamed_oracle_proves_an_adapter_apart(preset: Any, adapter: Any, tmp_path: Path) -> None:
    """--verify stream asks the original once as it is and once with the adapter."""
    given = {"output": tmp_path / "out", "max_length": 96, "lora": adapter("bart"), "lora_mode": "separate", "verify": "stream"}
    made = convert(preset("bart"), **given)
    assert [made.manifest.parity.verdict, made.manifest.adapters[0].parity.verdict] == ["proven-steps", "proven-steps"]


def test_the_command_takes_an_adapter_by_its_name(preset: Any, adapter: Any, tmp_path: Path) -> None:
    """`generate --lora NAME` gives the adapter's ids, `verify --replay` replays both certificates, and an unknown name tells the known ones."""
    from click.testing import CliRunner
    from kexport.converter.cli import cli

    from tests.converter.lora_models import adapted, tokens

    model, out = MODELS["gemma"], tmp_path / "out"
    convert(preset("gemma"), output=out, max_length=96, lora=adapter("gemma"), lora_mode="separate")
    prompt, expected = model.prompts[0], tokens(adapted("gemma"), model)[0]

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, list(arguments), prog_name="kexport")

    asked = ["generate", str(out), "--token-ids", " ".join(map(str, prompt)), "--sampler", "greedy", "--max-length", "40"]
    assert run(*asked, "--lora", "my_gemma").stdout.split() == [str(token) for token in expected[:40]]
    unknown = run(*asked, "--lora", "yours")
    assert unknown.exit_code == 5 and "KX370" in unknown.stderr and "my_gemma" in unknown.stderr
    assert run("verify", str(out), "--replay", "--quiet").exit_code == 0
    assert "my_gemma (rank 4, alpha 4), chosen by its name: proven" in " ".join(run("inspect", str(out)).stdout.split())
