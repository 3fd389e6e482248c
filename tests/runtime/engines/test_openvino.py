"""The OpenVINO engine on hand-built models: rows, chunks and orders must not show in the logits.

The models are the ones whose masks go by columns of the state, so that a row that stands at the wrong column is seen: windows, slopes,
rotations, and the form without them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.engines.base import Engine, open_engine
from kexport.runtime.engines.openvino import OpenVinoCache

from tests.targets.onnx.toys import Reference, Toy, decoder, encoder
from tests.targets.openvino.runs import Files, manifest_of, write

BOUND = 2e-5  # in standard deviations of the logits
CAPACITY = 40
MODELS: dict[str, dict[str, Any]] = {
    "window": {"windows": (3, None)},
    "slopes": {"alibi": True, "rope": False, "norm": "layer_norm", "bias": True, "kv_heads": 4},
    "softcap": {"softcap": 2.0, "windows": (4, None), "kv_heads": 1},
    "own mask": {"mask": True},
    "all positions": {"last_token": False},
}
PROMPTS = [[5, 9, 33, 2, 51, 8, 15, 60, 4], [40, 3, 22], [11, 12, 13, 44, 2, 7]]


@pytest.fixture(scope="module", params=MODELS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """One artifact a model."""
    return write(tmp_path_factory.mktemp("model"), decoder(Toy(**MODELS[request.param])), capacity=CAPACITY)


@pytest.fixture(scope="module")
def engine(files: Files) -> Any:
    with files.open() as opened:
        yield opened


class Truth:
    """Every row of the batch on its own, by the interpreter; `history[b]` are the tokens that row b holds."""

    def __init__(self, files: Files, rows: int) -> None:
        self.files = files
        self.history: list[list[int]] = [[] for _ in range(rows)]

    def extend(self, tokens: Any, counts: Any) -> None:
        for row, count in enumerate(counts):
            self.history[row] = self.history[row] + [int(token) for token in tokens[row][:count]]

    def logits(self, row: int) -> Any:
        ids = self.history[row]
        result = Reference(self.files.graphs["extend"], self.files.source, 1, CAPACITY).extend(np.array([ids]), np.array([len(ids)]))
        return result[0, -1]


def check(got: Any, truth: Truth, rows: Any) -> None:
    """The logits of `rows` are those of the whole histories."""
    for row in rows:
        want = truth.logits(row)
        assert np.abs(got[row] - want).max() < BOUND * want.std(), row


def ragged(rows: list[list[int]]) -> tuple[Any, Any]:
    """Right padded ids and their lengths."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.full((len(rows), lengths.max(initial=0)), 59, np.int32)  # padding that would be seen if it counted
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    return tokens, lengths


SCHEDULES: dict[str, list[tuple[int, ...]]] = {
    "steps": [(9, 3, 6), (1, 1, 1), (1, 1, 1)],
    "ragged chunk over a past": [(4, 1, 2), (3, 5, 1), (1, 1, 1)],
    "idle rows": [(3, 2, 4), (0, 1, 0), (0, 1, 0), (1, 1, 1), (2, 0, 3), (1, 1, 1)],
    "a row that begins later": [(3, 0, 2), (1, 0, 1), (2, 4, 1), (1, 1, 1)],
    "nothing at all": [(0, 0, 0), (2, 3, 1), (0, 0, 0), (1, 1, 1)],
    "rows that end": [(3, 2, 4), (1, 1, 0), (1, 0, 0), (1, 0, 0), (1, 1, 1)],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_gives_every_rows_own_logits(name: str, engine: Engine, files: Files) -> None:
    """Whatever the other rows do, a row's logits are those of its tokens alone; rows of length 0 stay as they are."""
    rng = np.random.default_rng(7)
    cache, truth = engine.new_cache(3, CAPACITY), Truth(files, 3)
    for counts in SCHEDULES[name]:
        tokens = rng.integers(0, engine.vocabulary_size, (3, max(counts)))
        got = engine.extend(cache, tokens, np.array(counts))
        truth.extend(tokens, counts)
        check(got, truth, np.flatnonzero(counts))
        assert cache.lengths.tolist() == [len(row) for row in truth.history]


@pytest.mark.parametrize("cut", range(1, 9))
def test_prompt_split_at_every_point(cut: int, engine: Engine, files: Files) -> None:
    """However the prompts of two rows are cut in two, the logits after them are the same."""
    ids, truth = np.array([PROMPTS[0], PROMPTS[0][::-1]]), Truth(files, 2)
    truth.extend(ids, (9, 9))
    cache = engine.new_cache(2, CAPACITY)
    engine.extend(cache, ids[:, :cut])
    check(engine.extend(cache, ids[:, cut:]), truth, range(2))


def test_long_prompts_go_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged prompts longer than one call, first and over a past, give the logits of each row's own tokens."""
    monkeypatch.setattr("kexport.runtime.engines.openvino._PREFILL_CHUNK", 4)
    files = write(tmp_path, decoder(Toy(windows=(3, None))), capacity=CAPACITY)
    truth, rng = Truth(files, 2), np.random.default_rng(2)
    with files.open() as engine:
        cache = engine.new_cache(2, CAPACITY)
        for counts in ((11, 6), (9, 5), (1, 1)):
            tokens = rng.integers(0, engine.vocabulary_size, (2, max(counts)))
            truth.extend(tokens, counts)
            check(engine.extend(cache, tokens, counts), truth, range(2))


def test_reorder_moves_histories(engine: Engine, files: Files) -> None:
    """After a reorder a row goes on from the other's history; rows can be repeated and dropped, twice before the next call."""
    truth = Truth(files, 3)
    cache = engine.new_cache(3, CAPACITY)
    engine.extend(cache, *ragged(PROMPTS))
    truth.extend(*ragged(PROMPTS))
    for orders in ([[2, 0, 1]], [[0, 0, 2, 1]], [[1, 2], [1, 0, 0]], [[2]]):
        for order in orders:
            cache.reorder(order)
            truth.history = [truth.history[row] for row in order]
        tokens = np.arange(len(truth.history))[:, None] + 20
        truth.extend(tokens, [1] * len(tokens))
        check(engine.extend(cache, tokens), truth, range(len(tokens)))
        assert cache.lengths.tolist() == [len(row) for row in truth.history]


def test_reorder_then_a_ragged_chunk(engine: Engine, files: Files) -> None:
    """Rows that change places and are moved in the state in the same call."""
    truth = Truth(files, 3)
    cache = engine.new_cache(3, CAPACITY)
    engine.extend(cache, *ragged(PROMPTS))
    truth.extend(*ragged(PROMPTS))
    engine.extend(cache, np.array([[1], [2], [3]]), [0, 1, 0])
    truth.extend([[1], [2], [3]], [0, 1, 0])
    cache.reorder([1, 1, 0])
    truth.history = [truth.history[row] for row in (1, 1, 0)]
    tokens, counts = ragged([[4, 5], [6], [7, 8, 9]])
    truth.extend(tokens, counts)
    check(engine.extend(cache, tokens, counts), truth, range(3))


def test_snapshot_and_rewind_undo(engine: Engine, files: Files) -> None:
    """After `restore` and after `rewind`, of all rows alike, of each its own, or to nothing, rows go on from what they held then."""
    cache, truth = engine.new_cache(3, CAPACITY), Truth(files, 3)
    engine.extend(cache, *ragged(PROMPTS))
    truth.extend(*ragged(PROMPTS))
    saved, held = cache.snapshot(), [list(row) for row in truth.history]
    for lengths in ([8, 2, 5], [9, 1, 3], [9, 0, 6], [0, 0, 0]):
        cache.rewind(lengths)
        truth.history = [row[:length] for row, length in zip(held, lengths, strict=True)]
        tokens = np.array([[21, 22], [23, 24], [25, 26]])
        truth.extend(tokens, [2, 2, 2])
        check(engine.extend(cache, tokens), truth, range(3))
        cache.reorder([0])
        cache.restore(saved)
        assert cache.lengths.tolist() == [9, 3, 6]
    with pytest.raises(InvalidInputError, match="KX551"):
        cache.rewind([10, 1, 1])


def test_snapshot_of_a_pending_reorder(engine: Engine, files: Files) -> None:
    """A snapshot taken between a reorder and the next call holds the reordered rows; one of an empty cache restores an empty cache."""
    cache, truth = engine.new_cache(3, CAPACITY), Truth(files, 3)
    empty = cache.snapshot()
    engine.extend(cache, *ragged(PROMPTS))
    truth.extend(*ragged(PROMPTS))
    cache.reorder([2, 2])
    truth.history = [list(truth.history[2]), list(truth.history[2])]
    saved = cache.snapshot()
    engine.extend(cache, np.array([[1], [2]]))
    cache.restore(saved)
    truth.extend([[3], [4]], [1, 1])
    check(engine.extend(cache, np.array([[3], [4]])), truth, range(2))
    cache.restore(empty)
    assert cache.lengths.tolist() == [0, 0, 0]
    again = Truth(files, 3)
    again.extend(*ragged(PROMPTS))
    check(engine.extend(cache, *ragged(PROMPTS)), again, range(3))


def test_caches_are_separate(engine: Engine, files: Files) -> None:
    """Two conversations share the model, not its state."""
    caches, truths = [engine.new_cache(1, CAPACITY) for _ in range(2)], [Truth(files, 1) for _ in range(2)]
    for step in range(3):
        for number, (cache, truth) in enumerate(zip(caches, truths, strict=True)):
            tokens = np.array([[step + 10 * number, 7]])
            truth.extend(tokens, [2])
            check(engine.extend(cache, tokens), truth, [0])


def test_full_cache_serves_its_last_place_and_refuses_one_more(engine: Engine, files: Files) -> None:
    """Exactly `capacity` tokens fit; the next is refused by name, and a full idle row does not hinder the others."""
    cache, truth = engine.new_cache(2, 6), Truth(files, 2)
    tokens = np.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 0, 0, 0]])
    engine.extend(cache, tokens, [6, 3])
    truth.extend(tokens, [6, 3])
    truth.extend([[0], [9]], [0, 1])
    check(engine.extend(cache, np.array([[0], [9]]), [0, 1]), truth, [1])
    with pytest.raises(InvalidInputError, match="KX553"):
        engine.extend(cache, np.array([[7], [7]]))
    with pytest.raises(InvalidInputError, match="--max-length"):
        engine.new_cache(1, CAPACITY + 1)


def test_logits_are_the_callers_own(engine: Engine) -> None:
    """A later call does not change logits that were returned before."""
    cache = engine.new_cache(1, CAPACITY)
    first = engine.extend(cache, np.array([[1]]))
    kept = first.copy()
    engine.extend(cache, np.array([[2]]))
    np.testing.assert_array_equal(first, kept)


def test_steps_of_equal_rows_move_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts, steps, rows that end and reorders never copy the state; only a row that goes on after it was idle does."""
    moves = []
    monkeypatch.setattr(OpenVinoCache, "align", lambda self: moves.append(1))
    cache = engine.new_cache(3, CAPACITY)
    engine.extend(cache, *ragged(PROMPTS))
    for counts in ([1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]):
        engine.extend(cache, np.array([[1], [2], [3]]), counts)
    cache.reorder([0, 0])
    engine.extend(cache, np.array([[1], [2]]))
    assert not moves, "a state was copied"


def test_columns_that_no_row_needs_any_more_are_given_up(engine: Engine, files: Files) -> None:
    """When the long rows are gone the others do not go on attending over their padding."""
    cache, truth = engine.new_cache(3, CAPACITY), Truth(files, 3)
    engine.extend(cache, *ragged(PROMPTS))
    truth.extend(*ragged(PROMPTS))
    cache.reorder([1, 1])
    truth.history = [list(truth.history[1]), list(truth.history[1])]
    truth.extend([[1], [2]], [1, 1])
    check(engine.extend(cache, np.array([[1], [2]])), truth, range(2))
    assert isinstance(cache, OpenVinoCache) and cache.mask.shape == (2, 4)


def test_wrong_shapes_are_refused(engine: Engine) -> None:
    """Tokens that do not fit the cache are an error of ours, not of the library."""
    cache = engine.new_cache(2, 8)
    for tokens, lengths in ((np.array([[1]]), None), (np.array([1, 2]), None), (np.array([[1], [2]]), [2, 1]), (np.array([[1], [2]]), [1])):
        with pytest.raises(InvalidInputError, match="KX552"):
            engine.extend(cache, tokens, lengths)
    with pytest.raises(UnsupportedError, match="KX554"):
        engine.encode(np.array([[1], [2]]), np.ones((2, 1), bool), cache)


def test_closed_engine_says_so(tmp_path: Path) -> None:
    """It is unusable, not a crash."""
    files = write(tmp_path, decoder(Toy()))
    with files.open() as engine:
        cache = engine.new_cache(1, 8)
    for use in (lambda: engine.new_cache(1, 8), lambda: engine.extend(cache, np.array([[1]]))):
        with pytest.raises(InvalidInputError, match="KX550"):
            use()


def test_manifest_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A slot without its state, an input nobody can fill, a missing signature: said by name."""
    files = write(tmp_path, decoder(Toy()))
    whole = manifest_of(files)
    step = whole.signatures[0]
    fewer = msgspec.structs.replace(whole.cache, slots=whole.cache.slots[:1])
    strange = msgspec.structs.replace(step.inputs[0], name="pixels")
    for broken, words in (
        (msgspec.structs.replace(whole, cache=fewer), "states"),
        (msgspec.structs.replace(whole, signatures=(msgspec.structs.replace(step, inputs=(*step.inputs, strange)),)), "pixels"),
        (msgspec.structs.replace(whole, signatures=()), "signature"),
    ):
        with pytest.raises(InvalidInputError, match=words) as caught:
            open_engine(tmp_path, broken)
        assert caught.value.code == "KX555"


class TestEncoderDecoder:
    """A model with an encoder: cross caches are filled once and read in every step."""

    toy = Toy(cross=True, kv_heads=4, rope=False, learned_positions=True)
    prompts = ([7, 8, 9, 10, 11, 12], [30, 31, 32])

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Any:
        with write(tmp_path, encoder(self.toy), decoder(self.toy)).open() as opened:
            yield opened

    def encoded(self, engine: Engine, rows: Any, extra: int = 0) -> Any:
        """A cache whose encoder saw `rows`, padded by `extra` columns more than needed."""
        ids, lengths = ragged([list(row) for row in rows])
        ids = np.pad(ids, ((0, 0), (0, extra)))
        cache = engine.new_cache(len(rows), 20)
        engine.encode(ids, np.arange(ids.shape[1]) < lengths[:, None], cache)
        return cache

    def test_rows_and_padding_do_not_show(self, engine: Engine) -> None:
        """A ragged batch with padded encoder prompts equals single rows; the encoder's prompt matters."""
        tokens = [[1, 2], [1, 2, 3]]
        expected = []
        for encoder_row, row in zip(self.prompts, tokens, strict=True):
            cache = self.encoded(engine, [encoder_row])
            engine.extend(cache, np.array([row]))
            expected.append(engine.extend(cache, np.array([[40]]))[0])
        cache = self.encoded(engine, self.prompts, extra=5)
        engine.extend(cache, *ragged(tokens))
        np.testing.assert_allclose(engine.extend(cache, np.array([[40], [40]])), expected, atol=BOUND)
        other = self.encoded(engine, [[50, 51]])
        engine.extend(other, np.array([tokens[0]]))
        assert np.abs(engine.extend(other, np.array([[40]]))[0] - expected[0]).max() > 0.1

    def test_reorder_and_restore_take_the_encoder_along(self, engine: Engine) -> None:
        """Beams keep their own encoder prompt."""
        cache = self.encoded(engine, self.prompts)
        logits = engine.extend(cache, np.array([[1, 2], [1, 2]]))
        saved = cache.snapshot()
        cache.rewind([1, 1])
        cache.reorder([1, 0, 0])
        np.testing.assert_allclose(engine.extend(cache, np.array([[2], [2], [2]])), logits[[1, 0, 0]], atol=BOUND)
        cache.restore(saved)
        cache.rewind([1, 1])
        np.testing.assert_allclose(engine.extend(cache, np.array([[2], [2]])), logits, atol=BOUND)

    def test_another_encoder_prompt(self, engine: Engine) -> None:
        """A cache can be given another encoder prompt after steps were made."""
        cache = self.encoded(engine, self.prompts)
        first = engine.extend(cache, np.array([[1], [1]]))
        cache.reorder([1, 0])
        cache.rewind([0, 0])
        np.testing.assert_allclose(engine.extend(cache, np.array([[1], [1]])), first[::-1], atol=BOUND)
        cache.rewind([0, 0])
        ids, lengths = ragged([list(row) for row in self.prompts])
        engine.encode(ids, np.arange(ids.shape[1]) < lengths[:, None], cache)
        np.testing.assert_allclose(engine.extend(cache, np.array([[1], [1]])), first, atol=BOUND)

    def test_missing_encoder_prompt_is_refused(self, engine: Engine) -> None:
        """`extend` before `encode` says what is missing."""
        with pytest.raises(InvalidInputError, match="encoder prompt"):
            engine.extend(engine.new_cache(1, 8), np.array([[1]]))

    def test_encoder_prompt_that_is_too_long_is_refused(self, tmp_path: Path) -> None:
        """OpenVINO would read zeros beyond the position table."""
        files = write(tmp_path, encoder(self.toy), decoder(self.toy))
        manifest = manifest_of(files)
        manifest = msgspec.structs.replace(manifest, cache=msgspec.structs.replace(manifest.cache, encoder_capacity=4))
        with open_engine(tmp_path, manifest, threads=1) as engine, pytest.raises(InvalidInputError, match="KX560.*6 tokens"):
            self.encoded(engine, self.prompts)


def test_openvino_is_not_imported_before_it_is_needed() -> None:
    """The engine file is the only one that imports its library."""
    code = "import sys, kexport.runtime.engines.base; sys.exit('openvino' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_library_names_the_extra(tmp_path: Path) -> None:
    """Without OpenVINO an artifact's error says what to install."""
    files = write(tmp_path, decoder(Toy()))
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(manifest_of(files)))
    code = """
import sys
sys.modules["openvino"] = None
from pathlib import Path
import msgspec
from kexport.runtime.contract.manifest import Manifest
from kexport.runtime.engines.base import open_engine
open_engine(Path(sys.argv[1]), msgspec.json.decode((Path(sys.argv[1]) / "manifest.json").read_bytes(), type=Manifest))
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True)
    assert "KX511" in run.stderr and 'pip install "kexport[openvino]"' in run.stderr
