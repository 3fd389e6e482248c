"""Gemma 3 with its vision tower x targets: texts with images in KerasHub's forms give KerasHub's texts, and what cannot be answered is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.converter.conversion import convert_all
from kexport.runtime.contract.errors import InvalidInputError, KexportError, UnsupportedError

from tests.zoo import ZOO
from tests.zoo.multimodal import GEMMA3, GEMMA3_TOKENS, GEMMA3_VISION
from tests.zoo.variant import VOCABULARY

pytestmark = pytest.mark.slow
TARGETS = ("onnx", "openvino", "savedmodel", "tflite")
LENGTH = 60
ONE, TWO, NONE = "Look: <start_of_image> What is it?", "<start_of_image> or <start_of_image>?", "There is no image"


@dataclass
class Room:
    """The original, greedy, and its artifacts by target."""

    task: Any
    places: dict[str, Path]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    task = gemma3_with_images()
    directory = tmp_path_factory.mktemp("images") / "OUT"
    outcomes = {outcome.target: outcome for outcome in convert_all(task, "all", directory, max_length=LENGTH)}
    assert all(outcome.error is None for outcome in outcomes.values())
    task.compile(sampler="greedy")
    return Room(task, {target: directory / target for target in outcomes})


def gemma3_with_images(**converter: Any) -> Any:
    """The zoo's Gemma 3 with a trained tokenizer and an image converter. Imports Keras."""
    import keras
    import keras_hub

    from tests.converter.tiny_models import gemma_pieces

    models = keras_hub.models
    symbols = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<img>", "<end_of_image>", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581\u2581"]
    tokenizer = models.Gemma3Tokenizer(proto=gemma_pieces(user_defined_symbols=symbols))
    steps = {"scale": [1 / 127.5, 1 / 120, 1 / 110], "offset": [-1.0, -0.9, -1.1], **converter}
    preprocessor = models.Gemma3CausalLMPreprocessor(
        tokenizer=tokenizer, image_converter=keras_hub.layers.Gemma3ImageConverter(image_size=(16, 16), **steps),
        sequence_length=LENGTH, max_images_per_prompt=2, num_vision_tokens_per_image=GEMMA3_TOKENS,
    )  # fmt: skip
    keras.utils.set_random_seed(1)
    tower = models.Gemma3VisionEncoder(**GEMMA3_VISION, dtype="float32")
    config = {**GEMMA3, "vocabulary_size": tokenizer.vocabulary_size(), "vision_encoder": tower}
    task = models.Gemma3CausalLM(backbone=models.Gemma3Backbone(**config, dtype="float32"), preprocessor=preprocessor)
    generator = np.random.default_rng(1)
    for variable in task.variables:
        if len(variable.shape) > 1 and str(variable.dtype).startswith("float"):
            variable.assign(generator.normal(0, 0.4, variable.shape).astype(np.float32))
    return task


def picture(seed: int, height: int = 16, width: int = 16) -> Any:
    """float32 [height, width, 3] of whole numbers up to 255."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)


def refusal(call: Any, code: str) -> KexportError:
    """The error that `call` ends with, which must have this code."""
    with pytest.raises(KexportError) as caught:
        call()
    assert caught.value.code == code, caught.value
    return caught.value


@pytest.mark.parametrize("target", TARGETS)
def test_texts_with_images_are_kerashubs(room: Room, target: str) -> None:
    """One image, two images of other sizes, a batch with two, none and one: the same texts, which other images change."""
    batch = {"prompts": [TWO, NONE, ONE], "images": [[picture(1, 9, 30), picture(2, 40, 21)], [], [picture(3)]]}
    forms: list[dict[str, Any]] = [
        {"prompts": ONE, "images": picture(4, 25, 18)},
        {"prompts": TWO, "images": [picture(5, 7, 7), picture(6, 30, 12)]},
        {"prompts": [ONE, ONE], "images": np.stack([picture(7), picture(8)])},
        batch,
    ]
    with runtime.load(room.places[target], threads=1) as model:
        model.compile("greedy")
        answers = []
        for form in forms:
            expected = room.task.generate(dict(form), max_length=LENGTH)
            assert model.generate(form, max_length=LENGTH) == expected
            answers.append(expected)
        assert model.generate({"prompts": ONE, "images": picture(9, 25, 18)}, max_length=LENGTH) != answers[0]
        assert model.generate([TWO, NONE], max_length=LENGTH) == room.task.generate([TWO, NONE], max_length=LENGTH)  # places without images


@pytest.mark.parametrize("target", TARGETS)
def test_sampled_rows_with_images_are_kerashubs(room: Room, target: str) -> None:
    """Seeded draws in a ragged batch with and without images fall on KerasHub's columns."""
    import keras_hub

    batch = {"prompts": [NONE, TWO, ONE], "images": [[], [picture(1), picture(2)], [picture(3)]]}
    room.task.compile(sampler=keras_hub.samplers.TopKSampler(k=4, seed=12))
    expected = room.task.generate(dict(batch), max_length=LENGTH)
    room.task.compile(sampler="greedy")
    with runtime.load(room.places[target]) as model:
        model.compile(keras_hub.samplers.TopKSampler(k=4, seed=12))
        assert model.generate(batch, max_length=LENGTH) == expected


def test_files_and_pillow_images_are_their_arrays(room: Room, tmp_path: Path) -> None:
    """A path, a text that is a path, and an open image: what the array of its pixels gives; streaming gives the same text."""
    from PIL import Image

    array = picture(4, 25, 18)
    opened = Image.fromarray(array.astype(np.uint8))
    opened.save(tmp_path / "image.png")
    with runtime.load(room.places["onnx"], threads=1) as model:
        model.compile("greedy")
        expected = model.generate({"prompts": ONE, "images": array}, max_length=LENGTH)
        for image in (tmp_path / "image.png", str(tmp_path / "image.png"), opened, [array.astype(np.uint8)]):
            assert model.generate({"prompts": ONE, "images": image}, max_length=LENGTH) == expected
        assert "".join(model.stream({"prompts": ONE, "images": opened}, max_length=LENGTH)) == expected


@pytest.mark.parametrize("target", TARGETS)
def test_ids_with_images_are_kerashubs(room: Room, target: str) -> None:
    """What KerasHub's preprocessor gives, handed to both without one: the same ids and masks, `images` handed back."""
    texts = {"prompts": [TWO, ONE], "images": [[picture(1), picture(2)], [picture(3)]]}
    ids = {key: np.asarray(value) for key, value in room.task.preprocessor.generate_preprocess(texts, sequence_length=LENGTH).items()}
    preprocessor = room.task.preprocessor
    room.task.preprocessor = None
    try:
        expected = room.task.generate(ids, stop_token_ids=[1])
    finally:
        room.task.preprocessor = preprocessor
    with runtime.load(room.places[target], preprocessor=None, threads=1) as model:
        model.compile("greedy")
        got = model.generate(ids, stop_token_ids=[1])
    assert sorted(got) == sorted(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(got[key], values)


def test_the_tokens_of_an_image_see_each_other(room: Room) -> None:
    """Without the mask that lets them, the captured prefill gives other keys: the mask is in the graph and counts."""
    from kexport.graphs.capture import capture
    from kexport.graphs.capture.images import capture_images
    from kexport.graphs.capture.live import LiveWeights
    from kexport.graphs.interpreter import run

    graphs, notes = capture_images(room.task, capture(room.task).graphs["extend"].slots)
    graph, weights = graphs["prefill_images"], LiveWeights(room.task.variables)
    mask = np.zeros((1, 12), bool)
    mask[:, 3 : 3 + GEMMA3_TOKENS] = True
    embeddings = np.random.default_rng(0).normal(0, 1, (1, 12, 32)).astype(np.float32)
    ids = np.arange(9, 21, dtype=np.int32)[None]
    feeds = {"token_ids": ids, "vision_mask": mask, "image_embeddings": embeddings}
    seen = run(graph, feeds, weights)["keys.6"]
    table = np.asarray(room.task.backbone.token_embedding.embeddings)
    as_text = {**feeds, "vision_mask": np.zeros_like(mask)}
    original = room.task.backbone.token_embedding.embeddings
    changed = table.copy()
    changed[ids[0, 3 : 3 + GEMMA3_TOKENS]] = embeddings[0, mask[0]] / np.sqrt(np.float32(32))
    original.assign(changed)
    try:
        causal = run(graph, as_text, LiveWeights(room.task.variables))["keys.6"]  # the same embeddings, as text
    finally:
        original.assign(table)
    assert notes == []
    np.testing.assert_allclose(causal[:, :3], seen[:, :3], atol=1e-4)
    assert np.abs(causal[:, 3:] - seen[:, 3:]).max() > 0.1


def test_the_reference_runs_prompts_with_images() -> None:
    """The captured graphs, run by the interpreter, give the original's logits for rows with two images, none and one, in float32 and in float64."""
    from kexport.converter.images import capture_image_graphs
    from kexport.converter.options import make_options
    from kexport.converter.parity.attribution import reference_logits, widened
    from kexport.converter.parity.cases import Sizes
    from kexport.converter.parity.images import build_image_cases
    from kexport.converter.parity.oracle import LoadedOracle
    from kexport.graphs.capture import capture
    from kexport.graphs.capture.live import LiveWeights
    from kexport.runtime.contract.manifest import Images

    task = ZOO["gemma3, images"].build()
    graphs = capture(task).graphs
    graphs |= capture_image_graphs(task, graphs["extend"], make_options(target="onnx"))[0]
    record, weights = Images(height=16, width=16, tokens=GEMMA3_TOKENS), LiveWeights(task.variables)
    sizes = Sizes(vocabulary=VOCABULARY, capacity=48, encoder_capacity=0, parameters=1, seq2seq=False, forbidden=frozenset({0}))
    (case, _), oracle = build_image_cases(sizes, record), LoadedOracle(task, 0, images=record)
    rows = oracle.generate(case)
    logits = oracle.logits(case, rows)
    for form in (graphs, {name: widened(graph) for name, graph in graphs.items()}):
        for index, prompt in enumerate(case.prompts):
            got = reference_logits(form, weights, case, index, rows[index], 0)
            np.testing.assert_allclose(got, logits[index, len(prompt) - 1 : -1], atol=1e-3)


def test_prompts_that_one_signature_is_too_short_for(tmp_path: Path) -> None:
    """TFLite's `prefill_images_<n>`: a prompt of more than 256 tokens takes the next length, a short one the first."""
    task = gemma3_with_images()
    task.preprocessor.sequence_length = 320
    (outcome,) = convert_all(task, "tflite", tmp_path / "OUT", max_length=320)
    assert outcome.artifact is not None, outcome.error
    assert outcome.artifact.manifest.signature("prefill_images").sequence_lengths == (256, 320)
    task.compile(sampler="greedy")
    long = "a b c d e f g " * 29 + ONE
    assert 260 < len(task.preprocessor.tokenizer(long)) < 300
    with runtime.load(outcome.artifact.directory, threads=1) as model:
        model.compile("greedy")
        for text in (ONE, long):
            form = {"prompts": text, "images": picture(4, 25, 18)}
            assert model.generate(form, max_length=320) == task.generate(dict(form), max_length=320)


def test_the_command_line_takes_image_files(room: Room, tmp_path: Path) -> None:
    """`generate ARTIFACT PROMPT --image FILE` prints what `generate()` gives; with several prompts it is refused."""
    from click.testing import CliRunner
    from kexport.converter.commands.generate import command
    from PIL import Image

    array = picture(4, 25, 18)
    Image.fromarray(array.astype(np.uint8)).save(tmp_path / "image.png")
    arguments = [str(room.places["onnx"]), "--image", str(tmp_path / "image.png"), "--max-length", str(LENGTH), "--sampler", "greedy"]
    result = CliRunner().invoke(command, [*arguments, ONE])
    expected = room.task.generate({"prompts": ONE, "images": array}, max_length=LENGTH)
    assert (result.exit_code, expected in result.stdout) == (0, True), result.output
    refused = CliRunner().invoke(command, [*arguments, ONE, NONE])
    assert isinstance(refused.exception, KexportError) and refused.exception.code == "KX121"


def test_what_cannot_be_answered_is_refused(room: Room, tmp_path: Path) -> None:
    """Images that are none, too many, too few, cut off, or with a sampler of whole batches: one clear error each, before anything runs."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    one = picture(1)
    with runtime.load(room.places["onnx"], threads=1) as model:
        model.compile("greedy")
        wrong: dict[str, list[dict[str, Any]]] = {
            "KX580": [{"prompts": ONE, "images": np.zeros((4, 4, 4))}, {"prompts": [ONE], "images": [one, one]}, {"prompts": ONE, "images": 7}],
            "KX581": [{"prompts": ONE, "images": tmp_path / "broken.png"}, {"prompts": ONE, "images": str(tmp_path / "none.png")}],
            "KX582": [{"prompts": NONE, "images": one}, {"prompts": TWO, "images": one}, {"prompts": TWO, "images": [one, one, one]}],
            "KX528": [{"prompts": ONE, "responses": "x"}],
        }
        for code, forms in wrong.items():
            for form in forms:
                assert isinstance(refusal(lambda form=form: model.generate(form, max_length=LENGTH), code), InvalidInputError)  # type: ignore[misc]
        refusal(lambda: model.generate({"prompts": ONE, "images": one}, max_length=10), "KX583")
        model.compile("beam")
        assert isinstance(refusal(lambda: model.generate({"prompts": ONE, "images": one}), "KX585"), UnsupportedError)


def test_an_artifact_for_texts_alone_refuses_images(room: Room, tmp_path: Path) -> None:
    """`text_only` leaves the vision tower out, and so does a bundle for LiteRT-LM, which says so. Both answer texts as KerasHub does, and no image is
    dropped in silence."""
    forms: list[tuple[str, dict[str, Any]]] = [("onnx", {"text_only": True}), ("tflite", {"package": "litertlm"})]
    expected = room.task.generate([ONE, NONE], max_length=LENGTH)
    for target, options in forms:
        (outcome,) = convert_all(room.task, target, tmp_path / target, max_length=LENGTH, **options)
        assert outcome.artifact is not None, outcome.error
        assert not {"vision", "prefill_images"} & {signature.name for signature in outcome.artifact.manifest.signatures}
        assert any("texts alone" in note for note in outcome.artifact.notes) == (target == "tflite")
        with runtime.load(outcome.artifact.directory, threads=1) as model:
            model.compile("greedy")
            assert model.generate([ONE, NONE], max_length=LENGTH) == expected
            refusal(lambda model=model: model.generate({"prompts": ONE, "images": picture(1)}), "KX584")  # type: ignore[misc]


def test_steps_that_the_runtime_does_not_have_are_refused(tmp_path: Path) -> None:
    """An image converter with bicubic interpolation: no artifact, and the way to one for texts alone."""
    (outcome,) = convert_all(gemma3_with_images(interpolation="bicubic"), "onnx", tmp_path / "OUT", max_length=LENGTH)
    assert outcome.error is not None
    assert (outcome.error.code, "--text-only" in outcome.error.hint) == ("KX446", True)
