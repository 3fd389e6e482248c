"""A preset goes in, a proven artifact comes out; whatever goes wrong, nothing half-written stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.converter.conversion import convert
from kexport.converter.verification import replay_artifact, verify_artifact
from kexport.runtime.contract.errors import InvalidInputError, ParityError, UnsupportedError, UsageError
from kexport.runtime.contract.progress import SilentReporter

from tests.seed_models import MAX_LENGTH, MODELS, load_golden, padded

pytestmark = pytest.mark.slow
DECODERS = [name for name, model in MODELS.items() if model.family != "bart"]


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Any:
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
def artifact(preset: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> the proven ONNX artifact of a seed model, converted once."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = convert(preset(name), output=tmp_path_factory.mktemp("artifact") / name, max_length=96)
        return made[name]

    return get


def ragged_batch(name: str) -> dict[str, Any]:
    """The golden prompts as `generate()` takes them."""
    model = MODELS[name]
    ids, mask = padded(model.prompts, MAX_LENGTH)
    if model.family != "bart":
        return {"token_ids": ids, "padding_mask": mask}
    encoder_ids, encoder_mask = padded(model.encoder_prompts, max(map(len, model.encoder_prompts)))
    return {"encoder_token_ids": encoder_ids, "encoder_padding_mask": encoder_mask, "decoder_token_ids": ids, "decoder_padding_mask": mask}


@pytest.mark.parametrize("name", list(MODELS))
def test_every_seed_model_is_proven_and_gives_kerashubs_tokens(name: str, artifact: Any) -> None:
    """64 greedy tokens of a ragged batch of three, with and without stop ids, are those KerasHub's generate() gave."""
    made, golden = artifact(name), load_golden(name)
    assert made.manifest.parity.verdict == "proven" and made.manifest.parity.near_ties == 0
    with runtime.load(made.directory, preprocessor=None) as model:
        model.compile(sampler="greedy")
        key = "decoder_token_ids" if MODELS[name].family == "bart" else "token_ids"
        assert model.generate(ragged_batch(name), stop_token_ids=None)[key].tolist() == golden.tokens
        stopped = model.generate(ragged_batch(name), stop_token_ids=golden.stop_token_ids)
        assert stopped[key].tolist() == golden.stop_tokens
        assert stopped[key.replace("token_ids", "padding_mask")].tolist() == golden.stop_masks


@pytest.mark.parametrize("name", DECODERS)
def test_the_vendors_runtime_gives_the_same_ids(name: str, artifact: Any) -> None:
    """onnxruntime-genai runs the decoder-only artifacts unmodified."""
    genai = pytest.importorskip("onnxruntime_genai", reason="the vendor's runtime is not installed")
    made, golden = artifact(name), load_golden(name)
    prompt, expected = MODELS[name].prompts[0], golden.tokens[0]
    model = genai.Model(str(made.directory))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=MAX_LENGTH, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    tokens = [int(token) for token in generator.get_sequence(0)]
    stop = made.manifest.generation.vocabulary_size - 1  # the id that stands for "none" in its config
    whole = MAX_LENGTH if stop not in expected[len(prompt) :] else expected.index(stop, len(prompt)) + 1
    assert tokens[:whole] == expected[: len(tokens)] and len(tokens) >= whole - 1


def test_a_live_model_converts_and_is_left_as_found(tmp_path: Path) -> None:
    """Weights, sampler, compiled function and preprocessor of the caller's object are untouched."""
    from tests.stock_models import build

    task = build(MODELS["mistral"])
    task.compile(sampler="top_p")
    function = task.make_generate_function()
    before, sampler = [np.array(variable.value) for variable in task.variables], task.sampler
    made = convert(task, output=tmp_path / "out", max_length=96)
    assert made.manifest.parity.verdict == "proven"
    assert task.sampler is sampler and task.generate_function is function and task.preprocessor is None
    assert all(np.array_equal(np.array(variable.value), old) for variable, old in zip(task.variables, before, strict=True))
    assert made.manifest.generation.sampler["class_name"] == "TopPSampler"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["mistral", "gemma"])
def test_narrow_storage_is_proven_over_the_rounded_weights(dtype: str, name: str, preset: Any, artifact: Any, tmp_path: Path) -> None:
    """The file is smaller and the tokens are those of KerasHub over the stored numbers."""
    made = convert(preset(name), output=tmp_path / "out", max_length=96, dtype=dtype)
    assert made.manifest.parity.verdict == "proven" and made.manifest.parity.near_ties == 0
    assert made.manifest.dtype.stored == dtype and made.manifest.memory.weights < artifact(name).manifest.memory.weights


def test_two_conversions_give_the_same_bytes(preset: Any, artifact: Any, tmp_path: Path) -> None:
    """Model and data files are identical; only the manifest may name another place."""
    again = convert(preset("gemma2"), output=tmp_path / "out", max_length=96, verify="none")
    first = {file.path: file.sha256 for file in artifact("gemma2").manifest.files}
    assert {file.path: file.sha256 for file in again.manifest.files} == first


def test_a_streamed_oracle_proves_a_few_steps(preset: Any, tmp_path: Path) -> None:
    """--verify stream compares a prompt and three steps, with the weights read when an op needs them."""
    made = convert(preset("bart"), output=tmp_path / "bart", max_length=96, verify="stream")
    assert (made.manifest.parity.verdict, made.manifest.parity.steps) == ("proven-steps", 3)
    assert made.manifest.parity.tokens_compared == made.manifest.parity.tokens_equal == 3


@pytest.fixture
def broken_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A compiler that forgets sliding windows."""
    from kexport.converter import conversion as stage

    stock = stage._Conversion._capture

    def forgetful(self: Any, original: Any) -> Any:
        graphs = stock(self, original)
        for node in graphs["extend"].of_op("attention"):
            node.attrs["window"] = None
        return graphs

    monkeypatch.setattr(stage._Conversion, "_capture", forgetful)
    yield


def test_a_wrong_artifact_is_refused_and_leaves_nothing(broken_windows: None, preset: Any, tmp_path: Path) -> None:
    """The gate sees what a forgotten window does, names the first token, and OUT does not appear."""
    with pytest.raises(ParityError, match=r"row \d+, position \d+.*the capture is wrong") as refusal:
        convert(preset("mistral"), output=tmp_path / "out", max_length=96)
    assert refusal.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_rendering_is_told_from_a_wrong_capture(monkeypatch: pytest.MonkeyPatch, preset: Any, tmp_path: Path) -> None:
    """Where the captured graph equals the original and the file does not, the target is named."""
    from kexport.targets.onnx import target

    stock = target.emit

    def forgetful(graphs: Any, *arguments: Any) -> Any:
        copies = {name: graph.copy() for name, graph in graphs.items()}
        for node in copies["extend"].of_op("attention"):
            node.attrs["window"] = None
        return stock(copies, *arguments)

    monkeypatch.setattr(target, "emit", forgetful)
    with pytest.raises(ParityError, match="the target's rendering"):
        convert(preset("mistral"), output=tmp_path / "out", max_length=96)


def test_a_refused_artifact_can_be_kept_for_a_report(broken_windows: None, preset: Any, tmp_path: Path) -> None:
    """--keep-failed leaves OUT.failed, never OUT."""
    with pytest.raises(ParityError):
        convert(preset("mistral"), output=tmp_path / "out", max_length=96, keep_failed=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed"]


def test_nan_weights_are_refused_by_name(preset: Any, tmp_path: Path) -> None:
    """KerasHub loads NaN silently; the writer's one pass sees it, and nothing is written."""
    import h5py

    copy = tmp_path / "preset"
    shutil.copytree(preset("gemma"), copy)
    with h5py.File(copy / "model.weights.h5", "a") as file:
        found: list[Any] = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) and item.ndim == 2 else None)
        found[0][3, 1] = np.nan
    with pytest.raises(InvalidInputError, match="NaN") as refusal:
        convert(copy, output=tmp_path / "out", verify="none")
    assert refusal.value.exit_code == 5 and not (tmp_path / "out").exists()


def test_an_existing_output_is_kept_unless_forced(preset: Any, tmp_path: Path) -> None:
    """OUT that exists is an error before any work; --force replaces it as a whole."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError):
        convert(preset("bloom"), output=tmp_path / "out", verify="none")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    convert(preset("bloom"), output=tmp_path / "out", verify="none", force=True, max_length=96)
    assert (tmp_path / "out" / "kexport.json").exists() and not (tmp_path / "out" / "mine.txt").exists()


def test_lengths_beyond_the_position_table_are_refused(preset: Any, tmp_path: Path) -> None:
    """Bart's positions are a table; more cannot be served."""
    with pytest.raises(UsageError, match="position table"):
        convert(preset("bart"), output=tmp_path / "out", max_length=100_000)


def test_a_model_in_low_precision_in_memory_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """A live bfloat16 model would be proven in another precision than it runs in."""
    from tests.stock_models import bare

    with pytest.raises(UnsupportedError, match="bfloat16") as refusal:
        convert(bare(MODELS["mistral"], "bfloat16"), output=tmp_path / "out")
    assert "save_to_preset" in refusal.value.hint


def test_a_certificate_can_be_replayed_and_renewed(preset: Any, artifact: Any, tmp_path: Path) -> None:
    """--replay needs no original; against the original the certificate is made anew; a tampered file is named."""
    copy = tmp_path / "artifact"
    shutil.copytree(artifact("mistral").directory, copy)
    replayed = replay_artifact(copy, SilentReporter())
    assert replayed.tokens_equal == replayed.tokens_compared > 0
    assert verify_artifact(copy, str(preset("mistral")), "full", trust_source=False, reporter=SilentReporter()).verdict == "proven"
    with pytest.raises(InvalidInputError, match="MistralCausalLM"):
        verify_artifact(copy, str(preset("bloom")), "full", trust_source=False, reporter=SilentReporter())
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[5000] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    with pytest.raises(InvalidInputError, match=r"model\.onnx\.data"):
        replay_artifact(copy, SilentReporter())
