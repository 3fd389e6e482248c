"""The ONNX engine on hand-built models: rows, chunks, and orders must not show in the logits, and a step copies no cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from kexport.runtime.contract.errors import InvalidInputError, ResourceError, UnsupportedError
from kexport.runtime.engines.base import Engine, open_engine
from kexport.runtime.engines.onnx import OnnxCache, OnnxEngine

from ..gqa_model import Sizes, write_decoder, write_encoder_decoder

BOUND = 2e-5  # float32 noise of other batch shapes at logits of about 10
VOCABULARY = Sizes().vocabulary
STRIDE = 31  # keeps the continuation of a random model from repeating one token
PROMPTS = [[5, 9, 33, 2, 71, 8, 15, 60, 4], [40, 3, 22, 18, 90], [11, 12, 13, 64, 2, 7, 55]]


@pytest.fixture(scope="module", params=["last", "all", "positions"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The decoder in the forms that an artifact may take."""
    directory = tmp_path_factory.mktemp(request.param)
    logits = "all" if request.param == "all" else "last"
    manifest = write_decoder(directory, logits=logits, position_ids=request.param == "positions")
    with open_engine(directory, manifest, threads=1) as opened:
        yield opened


def ragged(rows: list[list[int]]) -> tuple[Any, Any]:
    """Right padded ids and their lengths."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max()), np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    return tokens, lengths


def single_rows(engine: Engine, rows: list[list[int]], steps: int) -> tuple[list[list[int]], list[Any]]:
    """Tokens (from the logits and the step) and logits of every row on its own: the truth the other schedules are held to."""
    all_tokens, all_logits = [], []
    for ids in rows:
        cache = engine.new_cache(1, Sizes().capacity)
        logits = engine.extend(cache, np.array([ids]))
        tokens, seen = [], [logits[0]]
        for _ in range(steps):
            tokens.append((int(logits[0].argmax()) + STRIDE * len(tokens)) % VOCABULARY)
            logits = engine.extend(cache, np.array([[tokens[-1]]]))
            seen.append(logits[0])
        all_tokens.append(tokens)
        all_logits.append(np.stack(seen))
    return all_tokens, all_logits


def test_test_model_can_fail(engine: Engine) -> None:
    """Every earlier token of the prompt shows in the logits, far above the bound the other tests use."""
    whole = engine.extend(engine.new_cache(1, 32), np.array([PROMPTS[0]]))
    for position in range(len(PROMPTS[0]) - 1):
        changed = np.array([PROMPTS[0]])
        changed[0, position] += 1
        assert np.abs(engine.extend(engine.new_cache(1, 32), changed) - whole).max() > 1000 * BOUND


def test_engine_feeds_what_the_file_means(tmp_path: Path) -> None:
    """The engine's logits are those of the file run by hand with written-out masks and positions, a chunk and a step."""
    manifest = write_decoder(tmp_path, position_ids=True)
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    past = {spec.name: np.zeros((1, *spec.shape[1:2], 32, *spec.shape[3:]), np.float32) for spec in manifest.signatures[0].inputs[3:]}
    with open_engine(tmp_path, manifest, threads=1) as engine:
        cache = engine.new_cache(1, 32)
        for ids, positions in (([5, 9, 33], [0, 1, 2]), ([2, 71], [3, 4]), ([8], [5])):
            total = positions[-1] + 1
            feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, total), np.int64), "position_ids": np.array([positions])}
            logits, *present = session.run(["logits", *(name.replace("past_key_values", "present") for name in past)], feeds | past)
            past = dict(zip(past, present, strict=True))
            np.testing.assert_allclose(engine.extend(cache, np.array([ids])), logits[:, 0], atol=BOUND)


def test_ragged_batch_equals_single_rows(engine: Engine) -> None:
    """A row's logits do not depend on its neighbours, in the prompt or in the steps."""
    steps = 12
    expected_tokens, expected_logits = single_rows(engine, PROMPTS, steps)
    cache = engine.new_cache(len(PROMPTS), Sizes().capacity)
    logits = engine.extend(cache, *ragged(PROMPTS))
    for step in range(steps):
        for row in range(len(PROMPTS)):
            np.testing.assert_allclose(logits[row], expected_logits[row][step], atol=BOUND)
        logits = engine.extend(cache, np.array([[row[step]] for row in expected_tokens]))
    assert cache.lengths.tolist() == [len(prompt) + steps for prompt in PROMPTS]


@pytest.mark.parametrize("cut", range(1, 9))
def test_prompt_split_at_every_point(engine: Engine, cut: int) -> None:
    """However a prompt is cut in two, the logits after it are the same, also for several rows over a past."""
    ids = np.array([PROMPTS[0], PROMPTS[0][::-1]])
    whole = engine.extend(engine.new_cache(2, 32), ids)
    cache = engine.new_cache(2, 32)
    engine.extend(cache, ids[:, :cut])
    np.testing.assert_allclose(engine.extend(cache, ids[:, cut:]), whole, atol=BOUND)


def test_long_prompt_goes_in_chunks(tmp_path: Path) -> None:
    """A prompt longer than one prefill call gives the logits of token by token."""
    sizes = Sizes(capacity=1200)
    manifest = write_decoder(tmp_path, sizes)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, 1100))
    with open_engine(tmp_path, manifest, threads=1) as opened:
        chunked = opened.extend(opened.new_cache(1, sizes.capacity), ids)
        cache = opened.new_cache(1, sizes.capacity)
        for position in range(ids.shape[1]):
            logits = opened.extend(cache, ids[:, position : position + 1])
    np.testing.assert_allclose(chunked, logits, atol=BOUND)


def test_row_of_length_zero_is_left_alone(engine: Engine) -> None:
    """An idle row neither changes nor moves, in a step and in a prompt."""
    expected_tokens, expected_logits = single_rows(engine, PROMPTS[:2], steps=3)
    cache = engine.new_cache(2, Sizes().capacity)
    engine.extend(cache, *ragged(PROMPTS[:2]))
    tokens = np.array([[row[0]] for row in expected_tokens])
    engine.extend(cache, tokens, [1, 0])
    assert cache.lengths.tolist() == [len(PROMPTS[0]) + 1, len(PROMPTS[1])]
    np.testing.assert_allclose(engine.extend(cache, tokens, [0, 1])[1], expected_logits[1][1], atol=BOUND)
    np.testing.assert_allclose(engine.extend(cache, np.array([[row[1]] for row in expected_tokens]))[0], expected_logits[0][2], atol=BOUND)
    fresh = engine.new_cache(2, Sizes().capacity)
    logits = engine.extend(fresh, np.array([PROMPTS[0], PROMPTS[0]]), [0, len(PROMPTS[0])])
    np.testing.assert_allclose(logits[1], expected_logits[0][0], atol=BOUND)


def test_full_cache_serves_its_last_place_and_refuses_one_more(engine: Engine) -> None:
    """Exactly `capacity` tokens fit; the next is refused by name, and a full idle row does not hinder the others."""
    cache = engine.new_cache(2, 6)
    engine.extend(cache, np.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 0, 0, 0]]), [6, 3])
    alone = engine.new_cache(1, 6)
    engine.extend(alone, np.array([[1, 2, 3]]))
    np.testing.assert_allclose(engine.extend(cache, np.array([[0], [9]]), [0, 1])[1], engine.extend(alone, np.array([[9]]))[0], atol=BOUND)
    with pytest.raises(InvalidInputError, match="KX553"):
        engine.extend(cache, np.array([[7], [7]]))
    with pytest.raises(InvalidInputError, match="--max-length"):
        engine.new_cache(1, Sizes().capacity + 1)


def test_reorder_moves_histories(engine: Engine) -> None:
    """After a reorder a row goes on from the other's history; rows can be repeated and dropped."""
    _, expected = single_rows(engine, PROMPTS, steps=0)
    probe = np.array([[17]])
    after = []
    for ids in PROMPTS:
        cache = engine.new_cache(1, 32)
        engine.extend(cache, np.array([ids]))
        after.append(engine.extend(cache, probe)[0])
    cache = engine.new_cache(3, 32)
    np.testing.assert_allclose(engine.extend(cache, *ragged(PROMPTS)), [row[0] for row in expected], atol=BOUND)
    for order in ([2, 0, 1], [0, 0, 2, 1], [3], [0]):
        names = [2, 0, 1] if len(order) == 3 else [2, 2, 1, 0] if len(order) == 4 else [0]
        cache.reorder(order)
        assert cache.lengths.tolist() == [len(PROMPTS[name]) for name in names]
        logits = engine.extend(cache, np.repeat(probe, len(order), axis=0))
        np.testing.assert_allclose(logits, [after[name] for name in names], atol=BOUND)
        cache.rewind([len(PROMPTS[name]) for name in names])


def test_snapshot_and_rewind_undo(engine: Engine) -> None:
    """After `restore` and after `rewind` the same tokens give the same logits again."""
    cache = engine.new_cache(2, 32)
    engine.extend(cache, np.array([[1, 2, 3, 4], [9, 8, 7, 6]]))
    before = cache.snapshot()
    first = engine.extend(cache, np.array([[5], [5]]))
    cache.rewind([4, 4])
    np.testing.assert_array_equal(engine.extend(cache, np.array([[5], [5]])), first)
    cache.reorder([1])
    engine.extend(cache, np.array([[50]]))
    cache.restore(before)
    np.testing.assert_array_equal(engine.extend(cache, np.array([[5], [5]])), first)
    with pytest.raises(InvalidInputError, match="KX551"):
        cache.rewind([6, 5])


def test_step_copies_no_cache(engine: Engine) -> None:
    """onnxruntime writes present where past lies: the outputs' addresses are the inputs', and they are our buffers."""
    assert isinstance(engine, OnnxEngine)
    cache = engine.new_cache(1, 32)
    engine.extend(cache, np.array([[1, 2, 3]]))
    engine.extend(cache, np.array([[4]]))
    outputs = {value.data_ptr() for value in cache.bindings[None, 0]._io.get_outputs()}
    buffers = [array.__array_interface__["data"][0] for array in cache.self_arrays]
    assert set(buffers) <= outputs
    assert all(array[:, :, :4].any() and not array[:, :, 4:].any() for array in cache.self_arrays)


def test_logits_are_the_callers_own(engine: Engine) -> None:
    """A later call does not change logits that were returned before."""
    cache = engine.new_cache(1, 32)
    first = engine.extend(cache, np.array([[1]]))
    kept = first.copy()
    engine.extend(cache, np.array([[2]]))
    np.testing.assert_array_equal(first, kept)


def test_low_memory_gives_the_same_logits(tmp_path: Path) -> None:
    """Mapped weights change where weights lie, not what comes out."""
    manifest = write_decoder(tmp_path, external=True)
    results = []
    for low_memory in (False, True):
        with open_engine(tmp_path, manifest, threads=1, low_memory=low_memory) as opened:
            results.append(opened.extend(opened.new_cache(1, 16), np.array([PROMPTS[0]])))
    np.testing.assert_allclose(results[0], results[1], atol=BOUND)


def test_no_memory_for_caches(tmp_path: Path) -> None:
    """More rows than memory holds is a matter of resources, said with the figures."""
    with open_engine(tmp_path, write_decoder(tmp_path), threads=1) as opened, pytest.raises(ResourceError, match="KX605.*64 tokens"):
        opened.new_cache(1 << 40, 64)


def test_wrong_shapes_are_refused(engine: Engine) -> None:
    """Tokens that do not fit the cache are an error of ours, not of the library."""
    cache = engine.new_cache(2, 8)
    for tokens, lengths in ((np.array([[1]]), None), (np.array([1, 2]), None), (np.array([[1], [2]]), [2, 1]), (np.array([[1], [2]]), [1])):
        with pytest.raises(InvalidInputError, match="KX552"):
            engine.extend(cache, tokens, lengths)
    with pytest.raises(UnsupportedError, match="KX554"):
        engine.encode(np.array([[1], [2]]), np.ones((2, 1), bool), cache)


def test_damaged_file_is_an_invalid_artifact(tmp_path: Path) -> None:
    """A truncated graph is reported as the artifact's fault, with the file's name."""
    manifest = write_decoder(tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InvalidInputError, match=r"KX557.*model\.onnx"):
        open_engine(tmp_path, manifest)


def test_unknown_target_is_unsupported(tmp_path: Path) -> None:
    """A target without an engine file is named, with those that exist."""
    manifest = write_decoder(tmp_path)
    other = type(manifest)(**{**{name: getattr(manifest, name) for name in manifest.__struct_fields__}, "target": "../evil"})
    with pytest.raises(UnsupportedError, match=r"KX510(.|\n)*onnx"):
        open_engine(tmp_path, other)


class TestEncoderDecoder:
    """A model with an encoder: cross caches are filled once and read in every step."""

    encoder_prompts = ([7, 8, 9, 10, 11, 12], [30, 31, 32])

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Any:
        directory = tmp_path / "seq2seq"
        with open_engine(directory, write_encoder_decoder(directory), threads=1) as opened:
            yield opened

    def encoded(self, engine: Engine, rows: list[list[int]], extra: int = 0) -> OnnxCache:
        """A cache whose encoder saw `rows`, padded by `extra` columns more than needed."""
        ids, lengths = ragged(rows)
        ids = np.pad(ids, ((0, 0), (0, extra)))
        cache = engine.new_cache(len(rows), 32)
        engine.encode(ids, np.arange(ids.shape[1]) < lengths[:, None], cache)
        assert isinstance(cache, OnnxCache)
        return cache

    def test_rows_and_padding_do_not_show(self, engine: Engine) -> None:
        """A ragged batch with padded encoder prompts equals single rows; the encoder's prompt matters."""
        decoder = [[1, 2], [1, 2, 3]]
        expected = []
        for encoder_row, decoder_row in zip(self.encoder_prompts, decoder, strict=True):
            cache = self.encoded(engine, [list(encoder_row)])
            engine.extend(cache, np.array([decoder_row]))
            expected.append(engine.extend(cache, np.array([[40]]))[0])
        cache = self.encoded(engine, [list(row) for row in self.encoder_prompts], extra=5)
        assert cache.cross_arrays[0].shape[2] == len(self.encoder_prompts[0])
        engine.extend(cache, *ragged(decoder))
        np.testing.assert_allclose(engine.extend(cache, np.array([[40], [40]])), expected, atol=BOUND)
        other = self.encoded(engine, [[50, 51]])
        engine.extend(other, np.array([decoder[0]]))
        assert np.abs(engine.extend(other, np.array([[40]]))[0] - expected[0]).max() > 0.1

    def test_reorder_and_restore_take_the_encoder_along(self, engine: Engine) -> None:
        """Beams keep their own encoder prompt."""
        cache = self.encoded(engine, [list(row) for row in self.encoder_prompts])
        logits = engine.extend(cache, np.array([[1, 2], [1, 2]]))
        saved = cache.snapshot()
        cache.rewind([1, 1])
        cache.reorder([1, 0, 0])
        np.testing.assert_allclose(engine.extend(cache, np.array([[2], [2], [2]])), logits[[1, 0, 0]], atol=BOUND)
        cache.restore(saved)
        cache.rewind([1, 1])
        np.testing.assert_allclose(engine.extend(cache, np.array([[2], [2]])), logits, atol=BOUND)

    def test_another_encoder_prompt(self, engine: Engine) -> None:
        """A cache can be given another encoder prompt, and rows can change places, after steps were made."""
        cache = self.encoded(engine, [list(row) for row in self.encoder_prompts])
        first = engine.extend(cache, np.array([[1], [1]]))
        cache.reorder([1, 0])
        cache.rewind([0, 0])
        np.testing.assert_allclose(engine.extend(cache, np.array([[1], [1]])), first[::-1], atol=BOUND)
        assert np.abs(first[0] - first[1]).max() > 0.1
        cache.rewind([0, 0])
        ids, lengths = ragged([list(row) for row in self.encoder_prompts])
        engine.encode(ids, np.arange(ids.shape[1]) < lengths[:, None], cache)
        np.testing.assert_allclose(engine.extend(cache, np.array([[1], [1]])), first, atol=BOUND)

    def test_missing_encoder_prompt_is_refused(self, engine: Engine) -> None:
        """`extend` before `encode` says what is missing."""
        with pytest.raises(InvalidInputError, match="encoder prompt"):
            engine.extend(engine.new_cache(1, 8), np.array([[1]]))


def test_onnxruntime_is_not_imported_before_it_is_needed() -> None:
    """The engine file is the only one that imports its library."""
    import subprocess
    import sys

    code = "import sys, kexport.runtime.engines.base; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert ort.__version__


def test_encoder_prompt_that_does_not_fit_is_the_inputs_fault(tmp_path: Path) -> None:
    """What the encoder refuses (a position or an id beyond its tables) is an invalid input with the prompt's length."""
    with open_engine(tmp_path, write_encoder_decoder(tmp_path), threads=1) as engine:
        cache = engine.new_cache(1, 8)
        with pytest.raises(InvalidInputError, match="KX560.*2 tokens"):
            engine.encode(np.array([[1, VOCABULARY]]), np.ones((1, 2), bool), cache)
