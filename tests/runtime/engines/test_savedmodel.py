"""The SavedModel engine follows the interpreter; rows, chunks and orders do not show; what is damaged or does not fit is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.engines.base import Engine, open_engine

from tests.targets.onnx.toys import CAPACITY, Reference, Toy, decoder, encoder, source_of

pytestmark = pytest.mark.slow
BOUND = 1e-5
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"windows": (4,)},
    "gemma2": {"softcap": 4.0, "windows": (4, None), "offset": 1.0, "tied": True, "final_softcap": 30.0, "kv_heads": 1, "head_dim": 24},
    "bloom": {"alibi": True, "rope": False, "norm": "layer_norm", "bias": True, "kv_heads": 4},
    "odd heads": {"head_dim": 20, "value_dim": 12},
    "mask": {"mask": True, "sinks": True},
    "plain cache": {"plain_cache": True},
    "positions": {"learned_positions": True, "rope": False},
    "part of the head turns": {"rope_half": 4, "rope_factor": 1.5},
    "all logits": {"last_token": False},
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> engine, graph, source; each written and loaded once."""
    from tests.targets.savedmodel.artifacts import emit

    engines: dict[str, tuple[Engine, Any, Any]] = {}

    def get(name: str) -> tuple[Engine, Any, Any]:
        if name not in engines:
            graph = decoder(Toy(**FAMILIES[name]))
            source, directory = source_of(graph), tmp_path_factory.mktemp("toy")
            engines[name] = open_engine(directory, emit(directory, {"extend": graph}, source, capacity=CAPACITY)), graph, source
        return engines[name]

    yield get
    for engine, _, _ in engines.values():
        engine.close()


def last_of(logits: Any, counts: Any) -> Any:
    """Logits [batch, 1 or sequence, vocabulary] at each row's last token."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[np.arange(len(counts)), np.asarray(counts) - 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_engine_follows_the_interpreter(name: str, opened: Any) -> None:
    """A ragged prefill, a ragged chunk over a past, single steps and a rewind give the interpreter's logits."""
    engine, graph, source = opened(name)
    rng = np.random.default_rng(8)
    cache = engine.new_cache(3, CAPACITY)
    reference = Reference(graph, source, 3)
    for counts in ((6, 2, 5), (3, 1, 4), (1, 1, 1), (1, 1, 1)):
        tokens = rng.integers(0, engine.vocabulary_size, (3, max(counts)))
        got = engine.extend(cache, tokens, np.array(counts))
        want = last_of(reference.extend(tokens, np.array(counts)), counts)
        assert np.abs(got - want).max() < BOUND * want.std()
    cache.rewind([8, 2, 9])
    reference.lengths = np.array([8, 2, 9])
    tokens = rng.integers(0, engine.vocabulary_size, (3, 1))
    want = last_of(reference.extend(tokens, np.ones(3, np.int64)), (1, 1, 1))
    assert np.abs(engine.extend(cache, tokens) - want).max() < BOUND * want.std()


def test_encoder_and_decoder(tmp_path: Path) -> None:
    """The encoder's outputs become the decoder's cross caches; padding of the encoder prompt is hidden."""
    from tests.targets.savedmodel.artifacts import emit

    toy = Toy(cross=True, kv_heads=4, rope=False, learned_positions=True, tied=True)
    graphs = {"encode": encoder(toy), "extend": decoder(toy)}
    source = source_of(*graphs.values())
    manifest = emit(tmp_path, graphs, source, capacity=CAPACITY)
    rng = np.random.default_rng(9)
    ids, mask = rng.integers(0, toy.vocabulary, (2, 6)), np.arange(6) < np.array([[6], [3]])
    encoded = run(graphs["encode"], {"encoder_token_ids": ids.astype(np.int32), "encoder_padding_mask": mask}, source)
    reference = Reference(graphs["extend"], source, 2, cross={k: v for k, v in encoded.items() if k != "hidden"})
    reference.extra["encoder_padding_mask"] = mask
    with open_engine(tmp_path, manifest) as engine:
        cache = engine.new_cache(2, CAPACITY)
        with pytest.raises(InvalidInputError, match="encoder prompt"):
            engine.extend(cache, ids)
        engine.encode(ids, mask, cache)
        for counts in ((3, 1), (1, 1), (1, 1)):
            tokens = rng.integers(0, toy.vocabulary, (2, max(counts)))
            want = reference.extend(tokens, np.array(counts))[:, 0]
            assert np.abs(engine.extend(cache, tokens, np.array(counts)) - want).max() < BOUND * want.std()


def prefilled(engine: Engine, rows: list[list[int]]) -> tuple[Any, Any]:
    """A cache with these rows, and its logits."""
    cache, counts = engine.new_cache(len(rows), CAPACITY), np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), counts.max()), np.int64)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    return cache, engine.extend(cache, tokens, counts)


def test_rows_of_length_nothing_are_left_alone(opened: Any) -> None:
    """A row that takes no tokens continues as if the call had not been."""
    engine, _, _ = opened("mistral")
    plain, _ = prefilled(engine, [[3, 4, 5], [9, 8]])
    paused, _ = prefilled(engine, [[3, 4, 5], [9, 8]])
    for tokens in ([[1], [7]], [[2], [7]]):
        engine.extend(paused, np.array(tokens), np.array([1, 0]))
    got = engine.extend(paused, np.array([[6], [40]]))
    want = engine.extend(plain, np.array([[1], [40]]))
    assert paused.lengths.tolist() == [6, 3]
    assert np.abs(got[1] - want[1]).max() < BOUND * want[1].std()


def test_reorder_snapshot_and_restore(opened: Any) -> None:
    """Rows go on where another row stood; a snapshot outlives steps that write in place, and may be restored twice."""
    engine, _, _ = opened("mistral")
    cache, _ = prefilled(engine, [[3, 4, 5], [9, 8]])
    kept = cache.snapshot()
    want = engine.extend(cache, np.array([[1], [2]]))
    for _ in range(2):
        cache.restore(kept)
        engine.extend(cache, np.array([[50], [51]]))
    cache.restore(kept)
    cache.reorder([1, 0, 1])
    got = engine.extend(cache, np.array([[2], [1], [2]]))
    assert np.abs(got - want[[1, 0, 1]]).max() < BOUND * want.std()
    assert cache.lengths.tolist() == [3, 4, 3]


def test_caches_grow_without_a_trace(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is made longer every few tokens, and one filled in chunks, give the logits of one made at once; full is full."""
    from kexport.runtime.engines import savedmodel

    engine, _, _ = opened("mistral")
    tokens = np.random.default_rng(1).integers(0, engine.vocabulary_size, (2, CAPACITY))
    whole = engine.extend(engine.new_cache(2, CAPACITY), tokens)
    monkeypatch.setattr(savedmodel, "_GROWTH", 3)
    monkeypatch.setattr(savedmodel, "_PREFILL_CHUNK", 5)
    cache = engine.new_cache(2, CAPACITY)
    engine.extend(cache, tokens[:, :7])
    assert cache.room < CAPACITY
    pieces = engine.extend(cache, tokens[:, 7:])
    assert np.abs(pieces - whole).max() < BOUND * whole.std()
    with pytest.raises(InvalidInputError, match="--max-length"):
        engine.extend(cache, tokens[:, :1])
    with pytest.raises(InvalidInputError, match="--max-length"):
        engine.new_cache(1, CAPACITY + 1)


def test_a_step_copies_no_cache(opened: Any) -> None:
    """The tensors that come back are those that went in, written in place."""
    engine, _, _ = opened("mistral")
    cache, _ = prefilled(engine, [[3, 4, 5]])

    def places() -> dict[str, int]:
        return {name: tensor._numpy().__array_interface__["data"][0] for name, tensor in cache.caches.items()}  # `numpy()` copies

    before = places()
    engine.extend(cache, np.array([[1]]))
    assert places() == before


@pytest.mark.parametrize("position", [40, 10_000, -1])
def test_positions_outside_the_cache_stay_in_their_row(position: int, opened: Any) -> None:
    """A host that gives a position that is not there spoils its own row at most, never another head or row."""
    from kexport.runtime.plain_tensorflow import tf

    engine, _, _ = opened("mistral")
    cache, _ = prefilled(engine, [[3, 4, 5], [9, 8, 7]])
    before = {name: tensor.numpy().copy() for name, tensor in cache.caches.items()}
    assert next(iter(before.values())).shape[2] == CAPACITY + 1
    feeds = {"tokens": tf.constant([[1], [2]]), "input_pos": tf.constant([[position], [3]]), **cache.caches}
    outputs = engine._functions["decode"](**feeds)
    end = 0 if position < 0 else CAPACITY
    for name, old in before.items():
        new = outputs[name].numpy()
        changed = {tuple(place) for place in np.argwhere((new != old).any(axis=3)).tolist()}
        assert changed == {(0, head, end) for head in range(2)} | {(1, head, 3) for head in range(2)}


def damaged(directory: Path, name: str, how: str) -> None:
    path = directory / name
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("saved_model.pb", "missing"),
        ("saved_model.pb", "cut"),
        ("variables/variables.index", "missing"),
        ("variables/variables.index", "cut"),
        ("variables/variables.data-00000-of-00001", "missing"),
        ("variables/variables.data-00000-of-00001", "cut"),
        ("variables/variables.data-00000-of-00001", "changed"),
    ],
)
def test_damaged_files_are_refused(name: str, how: str, tmp_path: Path) -> None:
    """Whatever is missing, cut or changed: one clear error, none of TensorFlow's."""
    from tests.targets.savedmodel.artifacts import emit

    graph = decoder(Toy())
    manifest = emit(tmp_path, {"extend": graph}, source_of(graph))
    damaged(tmp_path, name, how)
    with pytest.raises(InvalidInputError, match="TensorFlow cannot load") as refused:
        open_engine(tmp_path, manifest)
    assert refused.value.code == "KX557"


def test_records_that_do_not_fit(tmp_path: Path) -> None:
    """A manifest without decode, with a signature that the file lacks, or with a cache of another kind."""
    from tests.targets.savedmodel.artifacts import emit

    graph = decoder(Toy())
    manifest = emit(tmp_path, {"extend": graph}, source_of(graph))
    replace = msgspec.structs.replace
    with pytest.raises(InvalidInputError, match="decode"):
        open_engine(tmp_path, replace(manifest, signatures=manifest.signatures[:1]))
    other = replace(manifest.signatures[0], name="other")
    with pytest.raises(InvalidInputError, match="other"):
        open_engine(tmp_path, replace(manifest, signatures=(*manifest.signatures, other)))
    slots = tuple(replace(slot, kind="recurrent") for slot in manifest.cache.slots)
    with pytest.raises(InvalidInputError, match="2 inputs"):
        open_engine(tmp_path, replace(manifest, cache=replace(manifest.cache, slots=slots)))


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    """Its caches are of no use any more."""
    from tests.targets.savedmodel.artifacts import emit

    graph = decoder(Toy())
    engine = open_engine(tmp_path, emit(tmp_path, {"extend": graph}, source_of(graph)))
    cache = engine.new_cache(1, 4)
    engine.close()
    with pytest.raises(InvalidInputError, match="closed"):
        engine.extend(cache, np.array([[1]]))
    with open_engine(tmp_path, emit(tmp_path / "again", {"extend": graph}, source_of(graph))) as engine, pytest.raises(UnsupportedError):
        engine.encode(np.array([[1]]), np.array([[True]]), engine.new_cache(1, 4))
