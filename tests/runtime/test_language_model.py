"""generate() and stream() on a hand-built artifact with a tokenizer: shapes of results, quirks, and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kexport import runtime
from kexport.runtime.contract.errors import InvalidInputError, KexportError, UnsupportedError, UsageError
from kexport.runtime.contract.files import sha256_file
from kexport.runtime.contract.manifest import Certificate, File, Images, Manifest, Packer, Tokenizer
from kexport.runtime.contract.manifest_io import write_manifest
from kexport.runtime.language_model import LanguageModel
from kexport.runtime.prompts import AUTO_WITHOUT_TOKENIZER

from .byte_tokenizer import END_ID, PAD_ID, START_ID, VOCABULARY, write_tokenizer
from .gqa_model import Sizes, write_decoder, write_encoder_decoder

CAPACITY = 48
SIZES = Sizes(vocabulary=VOCABULARY, capacity=CAPACITY)


def add_tokenizer(directory: Path, manifest: Manifest, roles: dict[str, Packer]) -> Manifest:
    """The artifact with a byte-level tokenizer."""
    path = write_tokenizer(directory)
    record = Tokenizer(
        kind="tokenizers", file=path.name, vocabulary_size=VOCABULARY, packers=roles, stripped_ids=(START_ID, END_ID, PAD_ID),
        stop_token_ids=(END_ID,), special_tokens={"bos": START_ID, "eos": END_ID, "pad": PAD_ID},
    )  # fmt: skip
    files = (*manifest.files, File(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path)))
    generation = msgspec.structs.replace(manifest.generation, stop_token_ids=(END_ID,), max_length=20)
    manifest = msgspec.structs.replace(manifest, tokenizer=record, files=files, generation=generation, parity=Certificate(verdict="proven"))
    write_manifest(directory, manifest)
    return manifest


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal artifact."""
    path = tmp_path_factory.mktemp("causal")
    add_tokenizer(path, write_decoder(path, SIZES), {"prompt": Packer(start=(START_ID,), pad=PAD_ID, sequence_length=20)})
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> Any:
    """With its tokenizer, greedy."""
    with runtime.load(directory, threads=1) as opened:
        opened.compile(sampler="greedy")
        yield opened


@pytest.fixture(scope="module")
def id_model(directory: Path) -> Any:
    """Without its tokenizer, greedy."""
    with runtime.load(directory, preprocessor=None, threads=1) as opened:
        opened.compile(sampler="greedy")
        yield opened


def row(ids: list[int], length: int) -> dict[str, Any]:
    """One padded row as KerasHub takes it."""
    tokens = np.full((1, length), PAD_ID, np.int32)
    tokens[0, : len(ids)] = ids
    return {"token_ids": tokens, "padding_mask": (np.arange(length) < len(ids))[None]}


def test_text_in_text_out(model: LanguageModel) -> None:
    """str for str, list for list, a list of one stays a list; the text begins with the prompt."""
    one = model.generate("say ", max_length=16)
    assert isinstance(one, str)
    assert one.startswith("say ")
    assert model.generate(["say "], max_length=16) == [one]
    both = model.generate(("say ", "what else"), max_length=16)
    assert both[0] == one
    assert both[1].startswith("what else")


def test_ids_and_text_agree(model: LanguageModel, id_model: LanguageModel) -> None:
    """The same prompt as ids gives the ids of the same text, with KerasHub's keys, types and mask."""
    ids = [START_ID, *model.tokenizer.encode(["say "])[0]]  # type: ignore[union-attr]
    result = id_model.generate(row(ids, 16), stop_token_ids=(END_ID,))
    assert sorted(result) == ["padding_mask", "token_ids"]
    assert result["token_ids"].dtype == np.int32
    assert result["padding_mask"].dtype == np.bool_
    assert model.tokenizer.texts(result["token_ids"], result["padding_mask"]) == [model.generate("say ", max_length=16)]  # type: ignore[union-attr]


def test_max_length_counts_prompt_and_new_tokens(model: LanguageModel, id_model: LanguageModel) -> None:
    """None and 0 take the original's default; a prompt that is longer than asked for is cut on the right and comes back."""
    assert model.generate("say ", stop_token_ids=None) == model.generate("say ", max_length=20, stop_token_ids=None)
    assert model.generate("say ", max_length=0, stop_token_ids=None) == model.generate("say ", max_length=20, stop_token_ids=None)
    assert model.generate("abcdefgh", max_length=5) == "abcd"
    result = id_model.generate(row([3, 4], 9), max_length=5, stop_token_ids=None)
    assert result["token_ids"].shape == (1, 9)
    assert result["padding_mask"].all()


def test_strip_prompt(model: LanguageModel, id_model: LanguageModel) -> None:
    """The completion alone; as ids the rolled arrays with the prompt at their end; a full buffer gives an empty text."""
    whole = model.generate("say ", max_length=16)
    assert "say " + model.generate("say ", max_length=16, strip_prompt=True) == whole
    assert model.generate("say ", max_length=3, strip_prompt=True) == ""
    plain = id_model.generate(row([5, 6, 7], 8), stop_token_ids=None)
    rolled = id_model.generate(row([5, 6, 7], 8), stop_token_ids=None, strip_prompt=True)
    assert rolled["token_ids"].tolist() == [[*plain["token_ids"][0, 3:].tolist(), 5, 6, 7]]
    assert rolled["padding_mask"].tolist() == [[True] * 5 + [False] * 3]


def test_stop_ids(id_model: LanguageModel) -> None:
    """ "auto" needs the tokenizer and says so in KerasHub's words; an empty list is refused; the caller's ids stop the loop."""
    with pytest.raises(ValueError) as caught:
        id_model.generate(row([3], 6))
    assert caught.value.args[0] == AUTO_WITHOUT_TOKENIZER
    with pytest.raises(InvalidInputError, match="KX524"):
        id_model.generate(row([3], 6), stop_token_ids=[])
    free = id_model.generate(row([3], 12), stop_token_ids=None)["token_ids"][0]
    stop = int(free[4])
    first = int(np.flatnonzero(free[1:] == stop)[0]) + 1
    stopped = id_model.generate(row([3], 12), stop_token_ids=[stop])
    assert stopped["padding_mask"].sum() == first + 1
    assert (stopped["token_ids"][0, first + 1 :] == PAD_ID).all()


def test_forms_of_stop_ids_with_text(model: LanguageModel) -> None:
    """ "auto" is what the tokenizer ends with; tuples, lists and arrays say the same; other words, nested lists and numbers are refused."""
    automatic = model.generate("say ", max_length=40)
    for same in ((END_ID,), [END_ID], np.array([END_ID])):
        assert model.generate("say ", max_length=40, stop_token_ids=same) == automatic
    everything = tuple(range(VOCABULARY))
    assert len(model.generate("say ", max_length=40, stop_token_ids=everything, strip_prompt=True)) <= 1
    for wrong in ("never", (), [[END_ID]], 3, [0.5], ["auto"]):
        with pytest.raises(InvalidInputError, match="KX524"):
            model.generate("say ", stop_token_ids=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("strip_prompt", [False, True])
@pytest.mark.parametrize("prompt", ["say ", "x", "größe ", "日本"])
@pytest.mark.parametrize("stop", ["auto", None])
def test_stream_is_the_text(model: LanguageModel, prompt: str, stop: Any, strip_prompt: bool) -> None:
    """The pieces join to generate()'s text, come one after the other, and none is empty."""
    arguments = {"max_length": 40, "stop_token_ids": stop, "strip_prompt": strip_prompt}
    pieces = list(model.stream(prompt, **arguments))
    assert "".join(pieces) == model.generate(prompt, **arguments)
    assert all(pieces)
    assert len(pieces) > 3


def test_stream_of_a_seeded_sampler(directory: Path) -> None:
    """A stream draws what generate() draws."""
    with runtime.load(directory, threads=1) as model:
        model.compile(sampler=runtime.samplers.TopKSampler(k=4, seed=11))
        first, second = model.generate("ab", stop_token_ids=None), model.generate("ab", stop_token_ids=None)
        assert first != second
        model.compile(sampler=runtime.samplers.TopKSampler(k=4, seed=11))
        assert ["".join(model.stream("ab", stop_token_ids=None)) for _ in range(2)] == [first, second]


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ([], "KX528"),
        (b"\xff", "KX528"),
        ("a\ud800", "KX528"),
        (np.array([1]), "KX528"),
        ([1, 2], "KX528"),
        (3, "KX528"),
        (["a", ["b"]], "KX528"),
        ([["a"], []], "KX528"),
        (np.array([["a"]]), "KX528"),
        (iter([]), "KX528"),
        ({"token_ids": [[1]], "padding_mask": [[1]]}, "KX528"),
        ("a" * (CAPACITY + 1), "KX523"),
    ],
)
def test_bad_texts(model: LanguageModel, inputs: Any, code: str) -> None:
    """Everything that is not text, or that the artifact could never serve, is refused before anything runs."""
    with pytest.raises(InvalidInputError, match=code):
        model.generate(inputs)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"token_ids": np.array([3, 4])}, "KX520"),
        ({"token_ids": np.array([[3.0, 4.0, 0.0]])}, "KX520"),
        ({"token_ids": [[3, 4], [5]]}, "KX520"),
        ({"padding_mask": np.array([[1, 1]])}, "KX520"),
        ({"padding_mask": np.array([[2, 1, 0]])}, "KX520"),
        ({"padding_mask": np.array([[0, 0, 0]])}, "KX521"),
        ({"token_ids": np.array([[3, VOCABULARY, 0]])}, "KX522"),
        ({"token_ids": np.array([[3, -1, 0]])}, "KX522"),
        ({"token_ids": np.zeros((0, 3), int), "padding_mask": np.zeros((0, 3), int)}, "KX520"),
        ({"token_ids": np.zeros((1, CAPACITY + 1), int), "padding_mask": np.ones((1, CAPACITY + 1), int)}, "KX523"),
    ],
)
def test_bad_ids(id_model: LanguageModel, changes: dict[str, Any], code: str) -> None:
    """Wrong shapes, empty rows and ids out of range are ValueErrors with a code, as is a prompt longer than the capacity."""
    prompt = {"token_ids": np.array([[3, 4, 0]]), "padding_mask": np.array([[1, 1, 0]]), **changes}
    with pytest.raises(InvalidInputError, match=code) as caught:
        id_model.generate(prompt, stop_token_ids=None)
    assert isinstance(caught.value, ValueError)
    if code == "KX523":
        assert "--max-length" in caught.value.hint


def test_other_refusals(model: LanguageModel, id_model: LanguageModel) -> None:
    """Lengths that are none, ids where text is wanted, streams of several prompts."""
    for wrong in (-1, 2.5, True, "9"):
        with pytest.raises(InvalidInputError, match="KX527"):
            model.generate("a", max_length=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"KX523(.|\n)*--max-length"):
        model.generate("a", max_length=CAPACITY + 1)
    for prompt in ("text", {"token_ids": [[1]]}):
        with pytest.raises(InvalidInputError, match="KX520"):
            id_model.generate(prompt, stop_token_ids=None)
    with pytest.raises(InvalidInputError, match="KX526"):
        model.stream(["a", "b"])
    with pytest.raises(InvalidInputError, match="KX526"):
        id_model.stream("a")


def test_a_training_scripts_compile_line_may_stay(directory: Path) -> None:
    """What Keras takes for training is left unread, what it does not take is refused as Keras refuses it; without a sampler it is KerasHub's default."""
    with runtime.load(directory) as model:
        model.compile(optimizer="adam", loss="auto", weighted_metrics="auto", jit_compile=False)
        assert isinstance(model.sampler, runtime.samplers.TopKSampler)
        with pytest.raises(TypeError, match="'sampels'"):
            model.compile(sampels="greedy")


@pytest.mark.parametrize("inputs", ["text", [[1, 2]], {"tokens": [[1, 2]]}])
def test_a_model_is_called_on_ids(model: LanguageModel, inputs: Any) -> None:
    """Texts and bare arrays are told apart from what KerasHub's tasks take."""
    with pytest.raises(InvalidInputError) as caught:
        model(inputs)
    assert caught.value.code == "KX520"


def test_full_cache(model: LanguageModel) -> None:
    """Generation up to the last position the artifact serves."""
    full = model.generate("a", max_length=CAPACITY, stop_token_ids=None)
    assert full.startswith(model.generate("a", max_length=CAPACITY - 9, stop_token_ids=None).rstrip("\ufffd"))


def test_not_verified_warns_once(tmp_path: Path) -> None:
    """An artifact that nobody compared says so when it first generates, unless that is allowed."""
    write_decoder(tmp_path, SIZES)
    with runtime.load(tmp_path, threads=1) as model:
        with pytest.warns(UserWarning, match="not-verified"):
            model.generate(row([3], 4), stop_token_ids=None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.generate(row([3], 4), stop_token_ids=None)
    with runtime.load(tmp_path, threads=1, allow_unverified=True) as model, warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(row([3], 4), stop_token_ids=None)


def test_closed_model_says_so(directory: Path) -> None:
    """Use after close is an error of ours."""
    model = runtime.load(directory, threads=1)
    model.close()
    with pytest.raises(InvalidInputError, match="closed"):
        model.generate("a")


class TestSeq2Seq:
    """Encoder texts in, decoder texts out."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        packers = {
            "encoder": Packer(start=(START_ID,), end=(END_ID,), pad=PAD_ID, sequence_length=12),
            "decoder": Packer(start=(END_ID, START_ID), pad=PAD_ID, sequence_length=20),
        }
        add_tokenizer(tmp_path, write_encoder_decoder(tmp_path, SIZES), packers)
        return tmp_path

    def test_text(self, directory: Path) -> None:
        """A text is the encoder's; a dict gives both; rows do not depend on each other."""
        with runtime.load(directory, threads=1) as model:
            model.compile(sampler="greedy")
            one = model.generate("hello", max_length=12)
            assert isinstance(one, str)
            two = model.generate(["hello", "a longer text than fits"], max_length=12)
            assert two[0] == one
            assert two[1] != one
            assert model.generate({"encoder_text": "hello", "decoder_text": ""}, max_length=12) == one
            started = model.generate({"encoder_text": ["hello"], "decoder_text": ["ab"]}, max_length=12)
            assert started[0].startswith("ab")
            assert "".join(model.stream("hello", max_length=12)) == one
            with pytest.raises(InvalidInputError, match="decoder_text"):
                model.generate({"encoder_text": "hello"})
            with pytest.raises(UnsupportedError, match="KX525"):
                model.generate("hello", strip_prompt=True)

    def test_ids(self, directory: Path) -> None:
        """Four arrays in, the decoder's two out."""
        with runtime.load(directory, preprocessor=None, threads=1) as model:
            model.compile(sampler="greedy")
            encoder, decoder = row([START_ID, 5, END_ID], 6), row([END_ID, START_ID], 9)
            prompt = {f"encoder_{k}": v for k, v in encoder.items()} | {f"decoder_{k}": v for k, v in decoder.items()}
            result = model.generate(prompt, stop_token_ids=None)
            assert sorted(result) == ["decoder_padding_mask", "decoder_token_ids"]
            assert result["decoder_token_ids"].shape == (1, 9)
            with pytest.raises(InvalidInputError, match="encoder_padding_mask"):
                model.generate({k: v for k, v in prompt.items() if k != "encoder_padding_mask"}, stop_token_ids=None)


class TestLoading:
    """Artifacts that are not what their manifest says."""

    @pytest.fixture
    def copy(self, directory: Path, tmp_path: Path) -> Path:
        for path in directory.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    def test_changed_byte(self, copy: Path) -> None:
        """One flipped bit in a small file is found at once."""
        data = bytearray((copy / "model.onnx").read_bytes())
        data[len(data) // 2] ^= 1
        (copy / "model.onnx").write_bytes(data)
        with pytest.raises(InvalidInputError, match="KX507"):
            runtime.load(copy)

    def test_full_check_reads_large_files(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A flipped bit in a large file is found by check="full"."""
        monkeypatch.setattr("kexport.runtime.loading._SMALL_FILE_BYTES", 10)
        data = bytearray((copy / "model.onnx").read_bytes())
        data[len(data) // 2] ^= 1
        (copy / "model.onnx").write_bytes(data)
        runtime.load(copy, threads=1).close()
        with pytest.raises(InvalidInputError, match="KX507"):
            runtime.load(copy, check="full")

    def test_full_check_asks_the_tokenizer(self, copy: Path) -> None:
        """check="full" and `generate --check` encode the recorded strings; the usual load does not."""
        from click.testing import CliRunner
        from kexport.converter.cli import cli

        with runtime.load(copy, threads=1) as opened:
            manifest = opened.manifest
        path = copy / "fixture.json"
        for ids, exit_code in (([4], 5), ([], 0)):
            path.write_text(json.dumps({"pairs": [{"text": "", "ids": ids}]}), encoding="utf-8")
            files = (*manifest.files, File(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path)))
            record = msgspec.structs.replace(manifest.tokenizer, fixture=path.name)
            write_manifest(copy, msgspec.structs.replace(manifest, tokenizer=record, files=files))
            runtime.load(copy, threads=1).close()
            result = CliRunner().invoke(cli, ["generate", str(copy), "a", "--check", "--max-length", "4"], prog_name="kexport")
            assert (result.exit_code, "KX542" in result.stderr) == (exit_code, exit_code == 5)
            if exit_code:
                with pytest.raises(InvalidInputError, match="KX542"):
                    runtime.load(copy, threads=1, check="full")

    def test_truncated_and_missing(self, copy: Path) -> None:
        """A shorter file and a file that is not there are named."""
        (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:-1])
        with pytest.raises(InvalidInputError, match=r"KX506.*model\.onnx"):
            runtime.load(copy)
        (copy / "model.onnx").unlink()
        with pytest.raises(InvalidInputError, match=r"KX508.*model\.onnx"):
            runtime.load(copy)

    def test_links(self, copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        """A symbolic or a hard link in place of a file is refused."""
        outside = tmp_path_factory.mktemp("outside") / "model.onnx"
        (copy / "model.onnx").rename(outside)
        (copy / "model.onnx").symlink_to(outside)
        with pytest.raises(InvalidInputError, match="KX505"):
            runtime.load(copy)
        (copy / "model.onnx").unlink()
        (copy / "model.onnx").hardlink_to(outside)
        with pytest.raises(InvalidInputError, match="KX505"):
            runtime.load(copy)

    def test_broken_tokenizer(self, copy: Path) -> None:
        """A tokenizer file that is none is the artifact's fault."""
        manifest = runtime.load(copy, preprocessor=None).manifest
        (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
        path = copy / "tokenizer.json"
        others = tuple(file for file in manifest.files if file.path != path.name)
        files = (*others, File(path=path.name, bytes=2, sha256=sha256_file(path)))
        write_manifest(copy, msgspec.structs.replace(manifest, files=files))
        with pytest.raises(InvalidInputError, match="KX540"):
            runtime.load(copy)

    def test_wrong_options(self, directory: Path) -> None:
        """Options that do not exist are wrong usage."""
        for options in ({"check": "some"}, {"preprocessor": "other"}, {"threads": 0}):
            with pytest.raises(UsageError):
                runtime.load(directory, **options)  # type: ignore[arg-type]
        with pytest.raises(KexportError, match="KX501"):
            runtime.load(directory / "nothing")

    def test_no_more_threads_than_the_machine_has(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Thousands of threads would never start; what is run on instead is said."""
        monkeypatch.setattr("os.cpu_count", lambda: 2)
        with pytest.warns(UserWarning, match="2 threads, not 100000"), runtime.load(directory, threads=100_000) as model:
            assert model.generate("a", max_length=8)

    def test_backbone_does_not_generate(self, copy: Path) -> None:
        """A task without text is refused by name."""
        manifest = runtime.load(copy, preprocessor=None).manifest
        write_manifest(copy, msgspec.structs.replace(manifest, task="backbone"))
        with pytest.raises(UnsupportedError, match="backbone"):
            runtime.load(copy)


def test_runtime_needs_no_keras(directory: Path) -> None:
    """Loading and generating imports neither Keras nor TensorFlow, and the name `load` is the function whatever was imported before."""
    code = (
        "import sys, kexport.runtime.loading; from kexport import runtime; "
        f"print(runtime.load({str(directory)!r}, threads=1).generate('a', max_length=6)); "
        "sys.exit(any(name.split('.')[0] in ('keras', 'tensorflow', 'keras_hub', 'torch', 'jax') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_images_for_an_artifact_without_a_vision_tower_are_refused(model: LanguageModel) -> None:
    """Texts in a dict are texts; with images it is KX584, and no image is dropped in silence. A manifest with sizes that are none is KX555."""
    assert model.generate({"prompts": "abc"}, max_length=12) == model.generate("abc", max_length=12)
    image = np.zeros((4, 4, 3), np.float32)
    with pytest.raises(UnsupportedError) as refused:
        model.generate({"prompts": "abc", "images": image}, max_length=12)
    assert refused.value.code == "KX584"
    step = model.manifest.signatures[0]
    signatures = (*model.manifest.signatures, msgspec.structs.replace(step, name="vision"))
    for record in (Images(height=4, width=4, tokens=0), Images(height=4, width=4, tokens=2)):
        manifest = msgspec.structs.replace(model.manifest, signatures=signatures, images=record)
        broken = LanguageModel(model.engine, manifest, model.tokenizer, allow_unverified=True)
        with pytest.raises(InvalidInputError) as error:
            broken.generate({"prompts": "abc", "images": image}, max_length=12)
        assert error.value.code == "KX555"
