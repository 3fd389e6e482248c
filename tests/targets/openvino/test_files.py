"""The files: determinism, records, streaming, stored dtypes, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import targets
from kexport.graphs.interpreter import run
from kexport.graphs.ir import Graph
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError, UsageError
from kexport.runtime.engines.base import EngineOptions
from kexport.runtime.forward import open_forward
from kexport.targets.base import EmitOptions
from kexport.targets.openvino import emit
from kexport.targets.openvino.weight_file import ALIGNMENT, WeightFile

from tests.targets.onnx.test_files import CountingSource, digests
from tests.targets.onnx.toys import RandomSource, Reference, Toy, decoder, encoder, linear, source_of
from tests.targets.openvino.runs import Files, compare, manifest_of, write

BOUND = 1e-5
ROOT = Path(__file__).parents[3]
TIED: dict[str, Any] = {"tied": True, "offset": 1.0, "windows": (4, None)}
SEQ2SEQ: dict[str, Any] = {"cross": True, "kv_heads": 4, "rope": False, "learned_positions": True}
WRITE_ELSEWHERE = """
import sys
from pathlib import Path
from tests.targets.onnx.toys import Toy, decoder, encoder
from tests.targets.openvino.runs import write
write(Path(sys.argv[1]), decoder(Toy(tied=True, offset=1.0, windows=(4, None))))
toy = Toy(cross=True, kv_heads=4, rope=False, learned_positions=True)
write(Path(sys.argv[1]), encoder(toy), decoder(toy))
"""


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    """Neither hash seeds, object ids nor OpenVINO's counter of names, which runs through a whole process, reach the files."""
    seen = []
    for seed in ("1", "2"):
        directory = tmp_path / seed
        directory.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", WRITE_ELSEWHERE, str(directory)], check=True, env=environment, cwd=ROOT)
        seen.append(digests(directory))
    here = tmp_path / "here"
    here.mkdir()
    toy = Toy(**SEQ2SEQ)
    for _ in range(2):
        write(here, decoder(Toy(**TIED)))
        write(here, encoder(toy), decoder(toy))
        seen.append(digests(here))
    assert all(digest == seen[0] for digest in seen)
    assert len(seen[0]) == 6


def test_records_of_files_are_true(tmp_path: Path) -> None:
    """Names, sizes and digests, taken while writing, are those of the files on disk."""
    files = write(tmp_path, decoder(Toy())).emitted.files
    assert {file.path: file.sha256 for file in files} == digests(tmp_path)
    assert {file.path: file.bytes for file in files} == {path.name: path.stat().st_size for path in tmp_path.iterdir()}


def test_weights_are_in_the_file_once(tmp_path: Path) -> None:
    """The .bin is hardly larger than the weights: the serializer does not write them a second time."""
    graph = decoder(Toy(hidden=256))
    files = write(tmp_path, graph)
    weights = sum(weight.nbytes for weight in graph.weights.values())
    assert weights < next(file.bytes for file in files.emitted.files if file.path.endswith(".bin")) < weights + 16_384


def test_constants_stand_on_aligned_places(tmp_path: Path) -> None:
    """Tensors start on cache lines and come back as they were, strided and empty ones too; equal small ones stand there once."""
    file = WeightFile(tmp_path / "weights.bin")
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((3,), (5, 7), (0, 4), ())]
    arrays += [arrays[1].T, np.asfortranarray(arrays[1])]
    places = [file.append(str(number), array) for number, array in enumerate(arrays)]
    assert file.append_bytes(b"abc") is file.append_bytes(b"abc")
    for place, array in zip(places, arrays, strict=True):
        assert place.offset % ALIGNMENT == 0 and place.size == array.nbytes
        if array.ndim:
            np.testing.assert_array_equal(file.mapped(place, array.dtype, array.shape), array)
    record = file.close()
    assert {"weights.bin": record.sha256} == digests(tmp_path)


def test_weights_are_read_once_and_one_at_a_time(tmp_path: Path) -> None:
    """No parameter is read twice, and no more than the parts of one tensor are alive at a time."""
    graph = decoder(Toy(hidden=64, layers=4))
    source = CountingSource(source_of(graph).shapes)
    emit({"extend": graph}, source, tmp_path, EmitOptions(16))
    assert set(Counter(source.reads).values()) == {1}
    sizes = [weight.nbytes for weight in graph.weights.values()]
    assert source.peak <= max(sizes) < sum(sizes) / 8
    assert source.live == 0


def test_hook_sees_every_weight_as_it_is_stored(tmp_path: Path) -> None:
    """The hook gets each tensor once, by its label: the numbers that stand in the file, [out, in]."""
    seen: dict[str, Any] = {}
    graph = decoder(Toy())
    files = write(tmp_path, graph, on_tensor=lambda name, array: seen.update({name: array.copy()}))
    stored = {node.get_friendly_name(): node for node in files.model().get_ordered_ops() if node.get_friendly_name() in seen}
    assert set(stored) == set(seen) and len(seen) == len(graph.weights)
    for name, node in stored.items():
        np.testing.assert_array_equal(node.get_data(), seen[name])
    assert seen["head.kernel.t10"].shape == (61, 32)


def test_error_of_the_hook_stops_the_writing(tmp_path: Path) -> None:
    """What the hook raises reaches the caller, and the model is not written."""

    def refuse(name: str, array: Any) -> None:
        raise UnsupportedError("KX299", f"no {name}")

    with pytest.raises(UnsupportedError, match="no "):
        write(tmp_path, decoder(Toy()), on_tensor=refuse)
    assert not (tmp_path / "openvino_model.xml").exists()


class Rounded:
    """The oracle's weights: rounded to the stored dtype, then float32 again."""

    def __init__(self, source: RandomSource, dtype: str) -> None:
        self.source, self.dtype = source, dtype

    def read(self, name: str) -> Any:
        return self.source.read(name).astype(numpy_dtype(self.dtype)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("options", [TIED, {"alibi": True, "rope": False, "norm": "layer_norm", "bias": True, "kv_heads": 4}, {"packed": False}])
def test_narrow_storage_is_exact_over_the_rounded_weights(options: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    """Half the bytes, computed in float32: the logits are those of the rounded weights, and visibly not those of the others."""
    graph = decoder(Toy(hidden=64, **options))
    wide = write(tmp_path, graph)
    size = sum(file.bytes for file in wide.emitted.files if file.path.endswith(".bin"))
    files = write(tmp_path, graph, stored_dtype=dtype)
    assert sum(file.bytes for file in files.emitted.files if file.path.endswith(".bin")) < 0.6 * size
    assert compare(files) > 10 * BOUND
    files.source = Rounded(files.source, dtype)  # type: ignore[assignment]
    assert isinstance(files.reference(1), Reference)
    assert compare(files) < BOUND


def test_refusals(tmp_path: Path) -> None:
    """What the target cannot do is refused by name before anything is written."""
    graphs = {"extend": decoder(Toy())}
    source = source_of(*graphs.values())
    with pytest.raises(UnsupportedError, match="int3"):
        emit(graphs, source, tmp_path, EmitOptions(8, stored_dtype="int3"))
    with pytest.raises(UnsupportedError, match="opset-only"):
        emit(graphs, source, tmp_path, EmitOptions(8, opset_only=True))
    with pytest.raises(UsageError, match="max-length"):
        emit(graphs, source, tmp_path, EmitOptions(0))
    assert not list(tmp_path.iterdir())


def test_float64_graph_is_refused_by_slot(tmp_path: Path) -> None:
    """Caches are float32."""
    graph = decoder(Toy())
    graph.slots["self.0"] = type(graph.slots["self.0"])("self", 2, 16, 16, "float16")
    with pytest.raises(UnsupportedError, match=r"`self\.0` is float16"):
        emit({"extend": graph}, source_of(graph), tmp_path, EmitOptions(8))


def test_target_is_registered() -> None:
    """By its name."""
    assert targets.get("openvino").name == "openvino"
    assert "openvino" in targets.known()


def test_damaged_files_are_refused_with_their_name(tmp_path: Path) -> None:
    """A cut-off graph is an error that names the file and a way out, not a crash."""
    files = write(tmp_path, decoder(Toy()))
    model = tmp_path / "openvino_model.xml"
    whole = model.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<net/>"):
        model.write_bytes(content)
        with pytest.raises(InvalidInputError, match=r"openvino_model\.xml") as caught:
            files.open()
        assert caught.value.code == "KX557" and "damaged" in caught.value.hint


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    """Neither an absent nor a cut-off .bin is run."""
    files = write(tmp_path, decoder(Toy()))
    weights = tmp_path / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InvalidInputError, match=r"openvino_model\.xml"):
        files.open()
    weights.unlink()
    with pytest.raises(InvalidInputError, match=r"openvino_model\.xml"):
        files.open()


def whole_rows() -> Graph:
    """A graph over whole rows with weights of `decoder(Toy(bias=True))`: its table, one part of a packed product, and one weight of its own."""
    graph = Graph("embed")
    ids = graph.add_input("token_ids", "int32", ("batch", "sequence"))
    x = graph.add_node("embedding", [graph.add_weight(Parameter((61, 32), "float32", "embedding.embeddings")), ids])
    inputs = [Parameter((32, 64), "float32", "layer0.attention.q.kernel"), Parameter((64,), "float32", "layer0.attention.q.bias")]
    x = graph.add_node("linear", [x, *map(graph.add_weight, inputs)])
    graph.outputs["embeddings"] = linear(graph, x, "own", 8)
    return graph


def rows_of(files: Files, ids: Any) -> Any:
    """What the runtime's runner of whole rows gives."""
    return open_forward(files.directory, manifest_of(files), EngineOptions(threads=1)).run("embed", {"token_ids": ids})["embeddings"]


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("first", ["extend", "embed"])
def test_whole_rows_stand_on_the_weights_of_the_steps(first: str, stored: str, tmp_path: Path) -> None:
    """In either order they add to the file only what it lacks; the runtime's numbers are the interpreter's; the records say where the weights are."""
    step, rows, ids = decoder(Toy(bias=True)), whole_rows(), np.array([[3, 60, 7], [1, 2, 3]], np.int32)
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    (size,) = (file.bytes for file in write(alone, step, stored_dtype=stored).emitted.files if file.path.endswith(".bin"))
    files = write(together, *((step, rows) if first == "extend" else (rows, step)), stored_dtype=stored)
    records = {file.path: file for file in files.emitted.files}
    assert set(records) == {"openvino_model.xml", "openvino_embed_model.xml", "openvino_model.bin"}
    assert {name: record.sha256 for name, record in records.items()} == digests(together)
    own = Parameter((64, 8), stored, "own.kernel").nbytes
    if first == "extend":
        assert own <= records["openvino_model.bin"].bytes - size < own + 1000
    assert {signature.name: signature.data for signature in files.emitted.signatures} == {"extend": "", "embed": "openvino_model.bin"}
    expected = run(rows, {"token_ids": ids}, Rounded(files.source, stored))["embeddings"]
    assert np.abs(rows_of(files, ids) - expected).max() < BOUND * np.abs(expected).max()
    files.source = Rounded(files.source, stored)  # type: ignore[assignment]
    assert compare(files) < BOUND


def test_whole_rows_beside_an_encoder_stand_on_the_decoders_weights(tmp_path: Path) -> None:
    """The encoder keeps a file of its own, which readers of its model look for."""
    toy = Toy(**SEQ2SEQ, bias=True)
    files = write(tmp_path, encoder(toy), decoder(toy), whole_rows())
    assert {signature.name: signature.data for signature in files.emitted.signatures} == {"encode": "", "extend": "", "embed": "openvino_decoder_model.bin"}
    assert {path.name for path in tmp_path.glob("*.bin")} == {"openvino_encoder_model.bin", "openvino_decoder_model.bin"}
    assert {file.path: file.sha256 for file in files.emitted.files} == digests(tmp_path)


def test_shared_weights_are_mapped(tmp_path: Path) -> None:
    """The file is read as memory of its own pages, not copied."""
    files = write(tmp_path, decoder(Toy()), whole_rows())
    model = files.model("embed")
    assert str(tmp_path / "openvino_model.bin") in Path("/proc/self/maps").read_text()
    assert len(model.outputs) == 1


def test_rows_without_their_weights_are_refused(tmp_path: Path) -> None:
    """By the name of the file that is not there."""
    files = write(tmp_path, decoder(Toy()), whole_rows())
    (tmp_path / "openvino_model.bin").unlink()
    with pytest.raises(InvalidInputError, match=r"openvino_model\.bin"):
        rows_of(files, np.ones((1, 1), np.int32))
