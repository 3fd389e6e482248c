"""`--signatures score,...` and `--task backbone`: proven against KerasHub at conversion, the same numbers at run time, refusals."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.converter.conversion import convert, convert_all
from kexport.converter.options import make_options
from kexport.runtime.contract.errors import InvalidInputError, ParityError, UnsupportedError, UsageError

from tests.graphs.capture.test_forward import encoders, ragged
from tests.seed_models import MODELS, VOCABULARY

TARGETS = ("onnx", "openvino", "savedmodel", "tflite")
DECODERS = ("bloom", "mistral", "gemma", "gemma2")
slow = pytest.mark.slow
CAPACITY = 72  # TFLite has signatures for rows of up to 64 and of up to 72 tokens
SPREAD = 1e-4  # the gate's bound, a share of the spread of the original's numbers


@functools.cache
def task_of(name: str) -> Any:
    """The stock task, live."""
    from tests.stock_models import build

    return build(MODELS[name])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(model, target, signatures) -> the proven artifact; a model is converted once for all targets that have the signatures."""

    @functools.cache
    def outcomes(name: str, targets: str, *signatures: str) -> Any:
        made = convert_all(task_of(name), targets, tmp_path_factory.mktemp("forward") / name, max_length=CAPACITY, signatures=signatures)
        return {outcome.target: outcome for outcome in made}

    def get(name: str, target: str, *signatures: str) -> Any:
        outcome = outcomes(name, "savedmodel" if "score_gradients" in signatures else ",".join(TARGETS), *signatures)[target]
        assert outcome.artifact is not None, outcome.error
        return outcome.artifact

    return get


def close(ours: Any, theirs: Any) -> None:
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    assert (np.abs(ours - theirs) <= SPREAD * (theirs.max() - theirs.min())).all()


@slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", DECODERS)
def test_score_is_kerashubs(name: str, target: str, artifact: Any) -> None:
    """Logits and losses of a ragged batch; the certificate names the largest difference; generating is untouched."""
    made, task = artifact(name, target, "score"), task_of(name)
    assert made.manifest.parity.verdict == "proven" and 0 < made.manifest.parity.max_logit_difference["score"] < 1e-3
    assert made.manifest.parity.tokens_compared == made.manifest.parity.tokens_equal > 0
    rows = ragged(VOCABULARY, 11)
    targets = np.roll(rows["token_ids"], -1, axis=1)
    logits = np.asarray(task(rows))
    with runtime.load(made.directory, preprocessor=None) as lm:
        close(lm.score(rows["token_ids"], rows["padding_mask"]), logits)
        assert np.array_equal(lm(rows), lm.score(**rows))
        losses = lm.score(rows["token_ids"], padding_mask=rows["padding_mask"], scoring_mode="loss", target_ids=targets)
        wanted = np.log(np.exp(logits.astype(np.float64)).sum(-1)) - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
        assert losses.shape == (3, 30) and np.abs(losses - wanted).max() < 1e-4
        if hasattr(task, "score"):
            theirs = task.score(rows["token_ids"], padding_mask=rows["padding_mask"], scoring_mode="loss", target_ids=targets)
            assert np.abs(losses - np.asarray(theirs)).max() < 1e-4
        close(lm.score(rows["token_ids"][2:]), logits[2:])  # without padding and without a mask
        long = np.random.default_rng(5).integers(1, VOCABULARY, (1, CAPACITY - 2)).astype(np.int32)
        close(lm.score(long), task({"token_ids": long, "padding_mask": np.ones(long.shape, bool)}))


@slow
def test_score_says_kerashubs_words(artifact: Any) -> None:
    """For a wrong mode and missing targets; and how to get what the artifact lacks."""
    task, ids = task_of("gemma"), ragged(VOCABULARY, 12)["token_ids"]
    with runtime.load(artifact("gemma", "onnx", "score").directory, preprocessor=None) as lm:
        for given in ({"scoring_mode": "both"}, {"scoring_mode": "loss"}):
            with pytest.raises(ValueError) as theirs:
                task.score(ids, **given)
            with pytest.raises(ValueError) as ours:
                lm.score(ids, **given)
            assert isinstance(ours.value, InvalidInputError) and ours.value.message == str(theirs.value)
        with pytest.raises(UnsupportedError) as caught:
            lm.score(ids, layer_intercept_fn=lambda x, index: x)
        assert caught.value.code == "KX575" and "--signatures score_layers" in caught.value.hint
        for targets in (ids[:1], ids + VOCABULARY, ids.astype(np.float32)):
            with pytest.raises(InvalidInputError, match="target_ids"):
                lm.score(ids, scoring_mode="loss", target_ids=targets)
        with pytest.raises(InvalidInputError) as caught_length:
            lm.score(np.ones((1, CAPACITY + 1), np.int32))
        assert caught_length.value.code == "KX523"


@slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["bloom", "gemma2"])
def test_layers_can_be_looked_at(name: str, target: str, artifact: Any) -> None:
    """What the function sees is what KerasHub shows it; changing it is refused; `embed` is the embedding layer."""
    made, task, rows = artifact(name, target, "score_layers", "embed"), task_of(name), ragged(VOCABULARY, 13)
    ours: list[tuple[int, Any]] = []
    with runtime.load(made.directory, preprocessor=None) as lm:
        logits = lm.score(**rows, layer_intercept_fn=lambda x, index: ours.append((index, x)) or x)
        embedded = lm.embed(rows["token_ids"])
        with pytest.raises(UnsupportedError, match="not changed"):
            lm.score(**rows, layer_intercept_fn=lambda x, index: x * 2)
        with pytest.raises(UnsupportedError) as caught:
            lm.score(**rows)
        assert "--signatures score" in caught.value.hint
    close(logits, task(rows))
    assert np.array_equal(embedded, np.asarray(task.backbone.token_embedding(rows["token_ids"])))
    assert [index for index, _ in ours] == list(range(-1, len(task.backbone.transformer_layers)))
    if name == "gemma2":
        theirs: list[Any] = []
        task.score(**rows, layer_intercept_fn=lambda x, index: theirs.append(x) or x)
        for (_, mine), other in zip(ours, theirs, strict=True):
            close(mine, other)
    close(ours[0][1], task.backbone.token_embedding(rows["token_ids"]))


@slow
@pytest.mark.parametrize("name", ["bloom", "gemma"])
def test_gradients_of_the_embeddings(name: str, artifact: Any) -> None:
    """What a tape gives around KerasHub's score(); Bloom has none, there the tape watches the embedding layer."""
    import tensorflow as tf

    task, rows = task_of(name), ragged(VOCABULARY, 16)
    targets = np.roll(rows["token_ids"], -1, axis=1)
    made = artifact(name, "savedmodel", "score_gradients")
    with runtime.load(made.directory, preprocessor=None) as lm:
        ours = lm.score_gradients(**rows, target_ids=targets)
    with tf.GradientTape() as tape:
        if name == "gemma":
            seen: list[Any] = []

            def watch(x: Any, index: int) -> Any:
                if index == -1:
                    tape.watch(x)
                    seen.append(x)
                return x

            losses = task.score(**rows, scoring_mode="loss", layer_intercept_fn=watch, target_ids=targets)
        else:
            seen = [task.backbone.token_embedding(rows["token_ids"])]
            tape.watch(seen[0])
            x = task.backbone.embeddings_layer_norm(seen[0])
            for layer in task.backbone.transformer_layers:
                x = layer(x, decoder_padding_mask=rows["padding_mask"])
            logits = task.backbone.token_embedding(task.backbone.layer_norm(x), reverse=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    close(ours.loss, losses)
    close(ours.gradients, tape.gradient(losses, seen[0]))


@slow
def test_gradients_through_a_recurrence(tmp_path: Path) -> None:
    """Back through the states of several chunks, as a tape goes through stock's loop."""
    from kexport.graphs.capture.forward import run_stock

    from tests.zoo import ZOO

    task, mask = ZOO["rwkv7"].build(), np.arange(70) < np.array([[70], [9]])
    ids = (np.random.default_rng(18).integers(1, 96, mask.shape) * mask).astype(np.int32)
    feeds = {"token_ids": ids, "padding_mask": mask, "target_ids": np.roll(ids, -1, axis=1)}
    theirs = run_stock(task, "score_gradients", feeds)
    made = convert(task, "savedmodel", tmp_path / "out", max_length=80, signatures=("score_gradients",), verify="none")
    with runtime.load(made.directory, preprocessor=None) as lm:
        ours = lm.score_gradients(**feeds)
    close(ours.loss, theirs["loss"])
    close(ours.gradients, theirs["gradients"])


@slow
def test_onnx_weights_are_shared(artifact: Any) -> None:
    """The score file refers to the step's data file: nearly nothing is stored twice."""
    for name in ("mistral", "gemma"):  # heads that the step does not pad
        files = {file.path: file.bytes for file in artifact(name, "onnx", "score").manifest.files}
        assert files.get("score_model.onnx.data", 0) < 0.05 * files["model.onnx.data"]


@slow
@pytest.mark.parametrize("name", ["mistral", "gemma"])
def test_openvino_weights_are_shared(name: str, artifact: Any) -> None:
    """There is one weights file, hardly larger than the weights; gate and values, which the steps multiply as one matrix, do not stand there again."""
    made = artifact(name, "openvino", "score")
    (size,) = (file.bytes for file in made.manifest.files if file.path.startswith("openvino_model") and file.path.endswith(".bin"))
    assert not [file.path for file in made.manifest.files if "score" in file.path and file.path.endswith(".bin")]
    weights = 4 * made.manifest.source.parameter_count
    assert weights < size < 1.02 * weights + 32_768


@slow
def test_a_wrong_score_refuses_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture that is off by a hundredth in its scale is found out, rounding or not, and nothing is written."""
    from kexport.converter import forward as stage

    stock = stage.capture_forwards

    def forgetful(model: Any, signatures: Any) -> Any:
        graphs, notes = stock(model, signatures)
        for node in graphs["score"].of_op("attention"):
            node.attrs["scale"] = 1.01 * node.attrs["scale"]
        return graphs, notes

    monkeypatch.setattr("kexport.converter.conversion.capture_forwards", forgetful)
    with pytest.raises(ParityError) as caught:
        convert(task_of("mistral"), output=tmp_path / "out", max_length=64, signatures=("score",))
    assert caught.value.code == "KX383" and not (tmp_path / "out").exists()


@slow
def test_each_fixed_length_is_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that no other case is run at is found out, too."""
    import kexport.targets.tflite

    ready = sys.modules[f"{kexport.targets.tflite.__name__}.emit"]._Ready  # the package has a function of the module's name
    stock = ready.graph

    def wrong_at_128(self: Any, wanted: Any) -> Any:
        graph = stock(self, wanted)
        if wanted.name == "score_128":
            graph = graph.copy()
            for node in graph.of_op("attention"):
                node.attrs["scale"] = 1.01 * node.attrs["scale"]
        return graph

    monkeypatch.setattr(ready, "graph", wrong_at_128)
    with pytest.raises(ParityError) as caught:
        convert(task_of("mistral"), "tflite", tmp_path / "out", max_length=200, signatures=("score",))
    assert caught.value.code == "KX383" and not (tmp_path / "out").exists()


@slow
@pytest.mark.parametrize("name", ["bert", "roberta", "distil_bert", "albert", "gemma", "bart"])
def test_a_backbone_alone(name: str, tmp_path: Path) -> None:
    """Its own outputs under its own names, from every library; `embed` beside it."""
    from tests.stock_models import fill

    seed = name in MODELS
    backbone = task_of(name).backbone if seed else encoders()[name]
    if not seed:
        fill(backbone, MODELS["bloom"])
    rows = ragged(96, 14)
    if name == "bart":
        rows = {f"{side}_{key}": array for side in ("encoder", "decoder") for key, array in rows.items()}
    if name in ("bert", "albert"):
        rows["segment_ids"] = np.random.default_rng(3).integers(0, 2, (3, 30)).astype(np.int32)
    theirs = backbone(rows)
    ids = rows.get("token_ids", rows.get("encoder_token_ids"))
    for outcome in convert_all(backbone, ",".join(TARGETS), tmp_path / "out", task="backbone", max_length=40):
        assert outcome.artifact is not None, outcome.error
        manifest = outcome.artifact.manifest
        assert manifest.task == "backbone" and manifest.parity.verdict == "proven"
        assert {"backbone", "embed"} == set(manifest.parity.max_logit_difference)
        with runtime.load(outcome.artifact.directory) as model:
            ours = model(rows)
            assert isinstance(ours, dict) == isinstance(theirs, dict)
            for key in theirs if isinstance(theirs, dict) else [None]:
                close(ours[key] if key else ours, theirs[key] if key else theirs)
            assert np.array_equal(model.embed(ids), np.asarray(backbone.token_embedding(ids)))
            with pytest.raises(UnsupportedError) as caught:
                model.generate("text")
            assert caught.value.code == "KX512"
            first = next(iter(rows))
            for wrong in ({}, {**rows, "else": ids}, {**rows, first: ids + 1000}, {**rows, first: ids[0]}):
                with pytest.raises(InvalidInputError):
                    model(wrong)


@slow
@pytest.mark.parametrize("name", ["gemma3n, shared caches", "qwen3.5", "qwen3.5 moe", "rwkv7"])
def test_whole_rows_of_layers_that_look_back(name: str, tmp_path: Path) -> None:
    """Scores and backbones of families whose layers hand on a state, or share keys and values, on every target: rows over several chunks, padding included."""
    from kexport.graphs.capture.forward import run_stock

    from tests.zoo import ZOO

    task, mask = ZOO[name].build(), np.arange(90) < np.array([[90], [3], [64], [17]])
    ids = np.random.default_rng(17).integers(1, 96, mask.shape)
    rows = {"token_ids": (ids * mask).astype(np.int32), "padding_mask": mask}
    logits, states = run_stock(task, "score", rows)["logits"], run_stock(task.backbone, "backbone", rows)["sequence_output"]
    for outcome in convert_all(task, ",".join(TARGETS), tmp_path / "task", max_length=100, signatures=("score",), verify="none"):
        assert outcome.artifact is not None, outcome.error
        with runtime.load(outcome.artifact.directory, preprocessor=None) as lm:
            close(lm.score(**rows), logits)
    for outcome in convert_all(task.backbone, ",".join(TARGETS), tmp_path / "backbone", max_length=100, task="backbone"):
        assert outcome.artifact is not None and outcome.artifact.manifest.parity.verdict == "proven", outcome.error
        with runtime.load(outcome.artifact.directory) as model:
            close(model(rows), states)


@slow
def test_an_encoders_preset_is_a_backbone(tmp_path: Path) -> None:
    """Without --task: there is nothing else in it. Weights are streamed from the file, never loaded for conversion."""
    backbone = encoders()["bert"]
    backbone.save_to_preset(str(tmp_path / "preset"))
    made = convert(str(tmp_path / "preset"), output=tmp_path / "out", verify="stream")
    assert (made.manifest.task, made.manifest.parity.verdict) == ("backbone", "proven-steps")
    rows = {**ragged(96, 15), "segment_ids": np.zeros((3, 30), np.int32)}
    with runtime.load(made.directory) as model:
        close(model(rows)["pooled_output"], backbone(rows)["pooled_output"])


@slow
def test_refusals_of_tasks_and_targets(tmp_path: Path) -> None:
    """By name, with the exit code of what is not supported; other targets go on."""
    for source, given in (
        (task_of("bart"), {"signatures": ("score",)}),
        (task_of("bloom"), {"task": "backbone", "signatures": ("score",)}),
        (task_of("bloom"), {"target": "tflite", "signatures": ("score_gradients",)}),
        (task_of("bloom"), {"target": "onnx", "signatures": ("score_gradients",)}),
    ):
        with pytest.raises(UnsupportedError) as caught:
            convert(source, output=tmp_path / "out", max_length=64, **given)
        assert caught.value.code in ("KX381", "KX382") and not (tmp_path / "out").exists()
    outcomes = convert_all(task_of("bloom"), "tflite,savedmodel", tmp_path / "both", max_length=64, signatures=("score_gradients",))
    assert [outcome.error.code if outcome.error else None for outcome in outcomes] == ["KX382", None]
    assert "savedmodel" in outcomes[0].error.hint


def test_an_unknown_signature_is_wrong_usage() -> None:
    """And the known ones are listed."""
    with pytest.raises(UsageError) as caught:
        make_options(signatures=("score", "scores"))
    assert "scores" in caught.value.message and "score_layers" in caught.value.hint
