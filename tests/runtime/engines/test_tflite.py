"""The TFLite engine: rows, pieces and orders must not show in the logits, and what it is given must fit."""

from __future__ import annotations

import builtins
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest_io import write_manifest
from kexport.runtime.engines.base import open_engine
from kexport.runtime.engines.tflite import cheapest_pieces
from kexport.runtime.litertlm_section import model_section
from kexport.targets.tflite.litertlm import llm_metadata, write_bundle

from tests.targets.onnx.toys import Toy, decoder, encoder
from tests.targets.tflite.helpers import Files, opened, write

CAPACITY = 30
BOUND = 1e-5
ROWS = [[5, 9, 33, 2, 58, 8, 15, 60, 4], [40, 3, 22, 18, 9], [11, 12, 13, 57, 2, 7, 55]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A small decoder."""
    return write(tmp_path_factory.mktemp("decoder"), decoder(Toy(windows=(5, None))), capacity=CAPACITY)


def ragged(rows: list[list[int]]) -> tuple[Any, Any]:
    """Right padded ids and their lengths."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max()), np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    return tokens, lengths


def after(engine: Any, row: list[int]) -> Any:
    """The logits after a row on its own."""
    return engine.extend(engine.new_cache(1, CAPACITY), np.array([row]))[0]


def assert_close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, atol=BOUND * float(np.std(want)))


def test_every_token_shows(files: Files) -> None:
    """The model can fail the tests below: a changed first or middle token changes the logits far above their bound."""
    with opened(files) as engine:
        whole = after(engine, ROWS[0])
        for place in (0, 4, 8):
            changed = list(ROWS[0])
            changed[place] += 1
            assert np.abs(after(engine, changed) - whole).max() > 100 * BOUND * whole.std()


def test_a_batch_is_its_rows(files: Files) -> None:
    """Ragged rows, also of length 0, continue each on its own."""
    with opened(files) as engine:
        cache = engine.new_cache(3, CAPACITY)
        got = engine.extend(cache, *ragged(ROWS))
        for row, logits in zip(ROWS, got, strict=True):
            assert_close(logits, after(engine, row))
        engine.extend(cache, np.array([[7], [0], [0]]), [1, 0, 0])
        got = engine.extend(cache, np.array([[1], [2], [3]]))
        assert cache.lengths.tolist() == [11, 6, 8]
        assert_close(got[0], after(engine, [*ROWS[0], 7, 1]))
        assert_close(got[1], after(engine, [*ROWS[1], 2]))


def test_reorder_snapshot_and_rewind(files: Files) -> None:
    """Rows move, double and vanish; a snapshot brings them back; forgotten tokens leave no trace."""
    with opened(files) as engine:
        cache = engine.new_cache(3, CAPACITY)
        engine.extend(cache, *ragged(ROWS))
        kept = cache.snapshot()
        cache.reorder([2, 0, 0, 2])
        assert cache.lengths.tolist() == [7, 9, 9, 7]
        got = engine.extend(cache, np.array([[1], [2], [3], [4]]))
        for logits, (row, token) in zip(got, ((2, 1), (0, 2), (0, 3), (2, 4)), strict=True):
            assert_close(logits, after(engine, [*ROWS[row], token]))
        cache.restore(kept)
        assert cache.batch_size == 3
        cache.rewind([4, 5, 1])
        got = engine.extend(cache, np.array([[9], [9], [9]]))
        for logits, (row, length) in zip(got, ((0, 4), (1, 5), (2, 1)), strict=True):
            assert_close(logits, after(engine, [*ROWS[row][:length], 9]))
        cache.reorder([1])
        assert_close(engine.extend(cache, np.array([[8]]))[0], after(engine, [*ROWS[1], 9, 8]))


def test_up_to_the_last_position(files: Files) -> None:
    """Near the end of the cache no padded call fits: single steps fill it, and one token more is refused with the way out."""
    row = (np.arange(CAPACITY) % 50 + 1).tolist()
    with opened(files) as engine:
        for cut in (CAPACITY - 1, 25, 13):
            cache = engine.new_cache(1, CAPACITY)
            engine.extend(cache, np.array([row[:cut]]))
            assert_close(engine.extend(cache, np.array([row[cut:]]))[0], after(engine, row))
        with pytest.raises(InvalidInputError, match="31 tokens") as caught:
            engine.extend(cache, np.array([[1]]))
        assert caught.value.code == "KX553" and "--max-length" in caught.value.hint
        with pytest.raises(InvalidInputError, match="cache of 1 rows and 31 tokens"):
            engine.new_cache(1, CAPACITY + 1)


def test_packed_weights_leave_nothing_behind(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that weights are packed into has no name any more once the engine is open; it works on, and so does a second engine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with opened(files) as engine, opened(files, low_memory=True) as other:
        assert list(tmp_path.iterdir()) == []
        assert_close(after(engine, ROWS[0]), after(other, ROWS[0]))


def test_a_full_disk(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room for packed weights, they are kept in memory."""
    from kexport.runtime.engines import tflite

    with opened(files) as engine:
        want = after(engine, ROWS[0])
    used = []
    load = tflite._load
    monkeypatch.setattr(tflite, "_load", lambda *given: used.append(given[-1]) or load(*given))
    monkeypatch.setattr(tflite.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with opened(files) as engine:
        assert_close(after(engine, ROWS[0]), want)
    assert used == [":memory"]


@pytest.mark.parametrize(
    ("count", "pieces"),
    [(1, (1,)), (2, (1, 1)), (15, (16,)), (16, (16,)), (17, (16, 1)), (130, (128, 1, 1)), (140, (128, 16)), (500, (512,))],
)
def test_pieces_of_a_prompt(count: int, pieces: tuple[int, ...]) -> None:
    """Few calls and little padding: a call costs as much as some tokens."""
    assert cheapest_pieces(count, (16, 128, 512)) == pieces


def test_calls_that_do_not_fit(files: Files) -> None:
    """A missing encoder, wrong shapes, a closed engine."""
    with opened(files) as engine:
        cache = engine.new_cache(1, CAPACITY)
        with pytest.raises(UnsupportedError, match="no encoder"):
            engine.encode(np.array([[1]]), np.array([[True]]), cache)
        with pytest.raises(InvalidInputError, match="do not fit"):
            engine.extend(cache, np.array([[1], [2]]))
    with pytest.raises(InvalidInputError, match="closed"):
        engine.extend(cache, np.array([[1]]))


def test_encoder_prompts(tmp_path: Path) -> None:
    """Too long a prompt is refused by name of its limit; a decoder without its encoder prompt too."""
    toy = Toy(cross=True, kv_heads=4, rope=False)
    files = write(tmp_path, {"encode": encoder(toy), "extend": decoder(toy)}, encoder_capacity=9)
    with opened(files) as engine:
        cache = engine.new_cache(1, CAPACITY)
        with pytest.raises(InvalidInputError, match="encoder prompt is missing"):
            engine.extend(cache, np.array([[1]]))
        with pytest.raises(InvalidInputError, match="10 tokens.* takes 9"):
            engine.encode(np.ones((1, 10), np.int32), np.ones((1, 10), bool), cache)
        engine.encode(np.ones((1, 30), np.int32), np.arange(30)[None] < 9, cache)
        kept, before = cache.snapshot(), engine.extend(cache, np.array([[1, 2]]))
        engine.encode(np.full((1, 3), 7, np.int32), np.ones((1, 3), bool), cache)
        cache.restore(kept)
        assert_close(engine.extend(cache, np.array([[1, 2]])), before)


@pytest.mark.parametrize("damage", ["cut", "no flatbuffer", "empty", "offset"])
def test_damaged_files(damage: str, files: Files, tmp_path: Path) -> None:
    """A broken model file is an error with the way out, in every process that opens it, and never a crash."""
    raw = files.path.read_bytes()
    broken = {"cut": raw[: len(raw) // 2], "no flatbuffer": b"x" * 4096, "empty": b"", "offset": b"\xff\xff\xff\x7f" + raw[4:]}[damage]
    (tmp_path / "model.tflite").write_bytes(broken)
    write_manifest(tmp_path, files.manifest)
    script = (
        "import sys; from pathlib import Path; from kexport.runtime.contract.manifest_io import read_manifest;"
        "from kexport.runtime.engines.base import open_engine; d = Path(sys.argv[1])\n"
        "try: open_engine(d, read_manifest(d))\n"
        "except Exception as error: print(error.code, error.exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == ["KX557", "5"], done.stderr[-500:]


def test_records_that_do_not_fit(files: Files) -> None:
    """A manifest without `decode`, or with a slot whose tensors are not there."""
    import msgspec

    manifest = files.manifest
    without = msgspec.structs.replace(manifest, signatures=tuple(s for s in manifest.signatures if s.name != "decode"))
    with pytest.raises(InvalidInputError, match="decode"):
        open_engine(files.directory, without)
    slot = msgspec.structs.replace(manifest.cache.slots[0], inputs=("kv_cache_k_9", "kv_cache_v_9"))
    with pytest.raises(InvalidInputError, match="kv_cache_k_9"):
        open_engine(files.directory, msgspec.structs.replace(manifest, cache=msgspec.structs.replace(manifest.cache, slots=(slot,))))


def test_a_bundle_is_read_where_its_model_stands(files: Files, tmp_path: Path) -> None:
    """The section's bytes are the model's; the engine gives the same logits; broken bundles are refused."""
    import msgspec

    (tmp_path / "tokenizer.json").write_text("{}")
    bundle = tmp_path / "model.litertlm"
    write_bundle(bundle, files.path, tmp_path / "tokenizer.json", llm_metadata(start_token_ids=[1], stop_token_ids=[2], capacity=CAPACITY))
    begin, size = model_section(bundle)
    assert bundle.read_bytes()[begin : begin + size] == files.path.read_bytes() and begin % 16384 == 0
    signatures = tuple(msgspec.structs.replace(s, file=bundle.name) for s in files.manifest.signatures)
    with opened(files) as engine, open_engine(tmp_path, msgspec.structs.replace(files.manifest, signatures=signatures)) as other:
        assert_close(after(other, ROWS[0]), after(engine, ROWS[0]))
    raw = bundle.read_bytes()
    for broken in (
        b"",
        raw[:40],
        b"LITERTLN" + raw[8:],
        raw[: begin + 100],
        raw[:24] + b"\xff" * 8 + raw[32:],
        raw[:32] + b"\xff" * 64 + raw[96:],
    ):
        bundle.write_bytes(broken)
        with pytest.raises(InvalidInputError) as caught:
            model_section(bundle)
        assert caught.value.code == "KX571"


def test_a_missing_library(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ai-edge-litert the extra is named."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("ai_edge_litert"):
            raise ModuleNotFoundError("no", name="ai_edge_litert")
        return real(name, *args, **kwargs)

    from kexport.runtime.engines import base

    monkeypatch.setattr(base, "_OPENERS", {})
    monkeypatch.delitem(sys.modules, "kexport.runtime.engines.tflite")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UnsupportedError, match=re.escape("ai_edge_litert")) as caught:
        open_engine(files.directory, files.manifest)
    assert caught.value.hint == 'pip install "kexport[tflite]"'


def test_nothing_of_the_library_reaches_the_terminal(files: Files, tmp_path: Path) -> None:
    """Opening, running and closing print nothing on standard error in a process that asked for silence at its end."""
    script = (
        "import sys; import numpy as np; from pathlib import Path; from kexport.runtime.contract.manifest_io import read_manifest;"
        "from kexport.runtime.native_output import mute_at_exit; from kexport.runtime.engines.base import open_engine\n"
        "mute_at_exit(); d = Path(sys.argv[1])\n"
        "with open_engine(d, read_manifest(d), threads=1) as e: c = e.new_cache(1, 9); e.extend(c, np.array([[1, 2, 3]]))\n"
        "del c, e\n"
    )
    os.link(files.path, tmp_path / "model.tflite")
    write_manifest(tmp_path, files.manifest)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
