"""The files: external data, determinism, laziness, stored dtypes, checker and shape inference, refusals."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from kexport import targets
from kexport.graphs.ir import Graph, TensorType
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.errors import UnsupportedError, UsageError
from kexport.targets.base import EmitOptions
from kexport.targets.onnx import emit
from onnx import TensorProto

from tests.targets.onnx.toys import RandomSource, Toy, compare, decoder, encoder, op_counts, source_of, write

CONTRIB_IN_DEFAULT_DOMAIN = {"SimplifiedLayerNormalization"}
GEMMA: dict[str, Any] = {"softcap": 4.0, "windows": (4, None), "offset": 1.0, "tied": True, "kv_heads": 1, "activation": "gelu"}
FORMS: dict[str, dict[str, Any]] = {
    "gemma": GEMMA,
    "bloom": {"alibi": True, "rope": False, "norm": "layer_norm", "bias": True, "kv_heads": 4},
    "rope outside": {"head_dim": 8},
    "plain": {"plain_cache": True, "windows": (3,), "sinks": True, "mask": True},
    "padded": {"head_dim": 20, "value_dim": 12},
}
ROOT = Path(__file__).parents[3]
WRITE_ELSEWHERE = """
import sys
from pathlib import Path
from tests.targets.onnx.toys import Toy, decoder, encoder, write
write(Path(sys.argv[1]), decoder(Toy(tied=True, offset=1.0, windows=(4, None))))
toy = Toy(cross=True, kv_heads=4, rope=False, learned_positions=True)
write(Path(sys.argv[1]), encoder(toy), decoder(toy))
"""


def digests(directory: Path) -> dict[str, str]:
    """File name -> SHA-256."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """Neither hash seeds nor object ids reach the files."""
    seen = []
    for seed in ("1", "2"):
        directory = tmp_path / seed
        directory.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", WRITE_ELSEWHERE, str(directory)], check=True, env=environment, cwd=ROOT)
        seen.append(digests(directory))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 6


def test_records_of_files_are_true(tmp_path: Path) -> None:
    """Names, sizes and digests, taken while writing, are those of the files on disk."""
    files = write(tmp_path, decoder(Toy())).emitted.files
    assert {file.path: file.sha256 for file in files} == digests(tmp_path)
    assert {file.path: file.bytes for file in files} == {path.name: path.stat().st_size for path in tmp_path.iterdir()}


def test_weights_are_outside_the_proto(tmp_path: Path) -> None:
    """Every tensor above a kilobyte lies in the data file, in the order of the graph, on aligned offsets."""
    write(tmp_path, decoder(Toy(rope=True)))
    model = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False)
    offsets = []
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == "model.onnx.data"
            offsets.append(int(entries["offset"]))
        else:
            assert len(tensor.raw_data) <= 1024
    assert offsets == sorted(offsets) and len(offsets) > 8
    assert all(offset % 64 == 0 for offset in offsets)


def test_initializer_names_are_the_weights_labels(tmp_path: Path) -> None:
    """A file's tensors carry the original's parameter names."""
    write(tmp_path, decoder(Toy(packed=False, offset=1.0)))
    names = {tensor.name for tensor in onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph.initializer}
    assert {"embedding.embeddings", "layer0.attention.q.kernel", "layer0.norm.scale.plus1", "head.kernel"} <= names


class CountingSource(RandomSource):
    """Knows how many bytes it handed out are still alive."""

    live = 0
    peak = 0

    def read(self, name: str) -> Any:
        array = super().read(name)
        self.live += array.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(array, self._release, array.nbytes)
        return array

    def _release(self, size: int) -> None:
        self.live -= size


def test_weights_are_read_once_and_one_at_a_time(tmp_path: Path) -> None:
    """No parameter is read before writing, none twice, and no more than the parts of one tensor are alive at a time."""
    graph = decoder(Toy(hidden=64, layers=4))
    source = CountingSource(source_of(graph).shapes)
    emit({"extend": graph}, source, tmp_path, EmitOptions(16))
    assert set(Counter(source.reads).values()) == {1}
    sizes = [weight.nbytes for weight in graph.weights.values()]
    in_the_proto = sum(size for size in sizes if size <= 1024)
    assert source.peak <= max(sizes) + in_the_proto < sum(sizes) / 8
    gc.collect()
    assert source.live == 0


def test_tied_table_is_read_once(tmp_path: Path) -> None:
    """Table and head are one tensor, read and written once."""
    graph = decoder(Toy(tied=True))
    source = source_of(graph)
    emit({"extend": graph}, source, tmp_path, EmitOptions(16))
    assert source.reads.count("embedding.embeddings") == 1


def test_hook_sees_every_tensor_in_file_order(tmp_path: Path) -> None:
    """The hook gets the very arrays that are written, in order."""
    seen: dict[str, Any] = {}
    write(tmp_path, decoder(Toy()), on_tensor=lambda name, array: seen.update({name: array.copy()}))
    data = (tmp_path / "model.onnx.data").read_bytes()
    model = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False)
    assert list(seen) == [tensor.name for tensor in model.graph.initializer]
    for tensor in model.graph.initializer:
        entries = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key in ("offset", "length")}
        if entries:
            assert data[entries["offset"] : entries["offset"] + entries["length"]] == seen[tensor.name].tobytes()


def test_error_of_the_hook_stops_the_writing(tmp_path: Path) -> None:
    """What the hook raises reaches the caller, and the proto is not written."""

    def refuse(name: str, array: Any) -> None:
        raise UnsupportedError("KX299", f"no {name}")

    with pytest.raises(UnsupportedError, match="no "):
        write(tmp_path, decoder(Toy()), on_tensor=refuse)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", FORMS)
def test_checker_and_shape_inference_pass(name: str, tmp_path: Path) -> None:
    """`onnx.checker` and strict shape inference accept the file; of contrib operators onnx knows no schema, so their outputs stand as
    inputs in the copy that is checked. Every value of the file is typed."""
    write(tmp_path, decoder(Toy(**FORMS[name])))
    check(tmp_path / "model.onnx")


def test_checker_accepts_encoder_and_decoder(tmp_path: Path) -> None:
    """The same of an encoder-decoder."""
    toy = Toy(cross=True, kv_heads=4, rope=False, learned_positions=True, norm="layer_norm", bias=True)
    write(tmp_path, encoder(toy), decoder(toy))
    check(tmp_path / "encoder_model.onnx")
    check(tmp_path / "decoder_model.onnx")


def check(path: Path) -> None:
    """Check a copy of the model in which the outputs of contrib operators are inputs with the types the file gives them."""
    model = onnx.load(str(path))
    typed = {value.name: value for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        assert all(output in typed for output in node.output), node.name
        assert all(typed[output].type.tensor_type.HasField("shape") for output in node.output), node.name
    foreign = [node for node in model.graph.node if node.domain or node.op_type in CONTRIB_IN_DEFAULT_DOMAIN]
    for node in foreign:
        for output in node.output:
            model.graph.input.append(typed[output])
        model.graph.node.remove(node)
    made = {output for node in model.graph.node for output in node.output}
    kept = [value for value in model.graph.output if value.name in made]
    del model.graph.output[:]
    model.graph.output.extend(kept or [typed[next(iter(made))]])
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


class RoundedSource:
    """The oracle's weights: rounded to the stored dtype, then float32 again."""

    def __init__(self, source: RandomSource, dtype: str) -> None:
        self.source, self.dtype = source, dtype

    def read(self, name: str) -> Any:
        from kexport.runtime.contract.dtypes import numpy_dtype

        return self.source.read(name).astype(numpy_dtype(self.dtype)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["gemma", "bloom", "rope outside", "padded"])
def test_narrow_storage_computes_in_float32_over_the_rounded_weights(dtype: str, name: str, tmp_path: Path) -> None:
    """Logits are those of float32 over the stored numbers, and matrices take half the bytes."""
    files = write(tmp_path, decoder(Toy(**FORMS[name])), stored_dtype=dtype)
    files.source = RoundedSource(files.source, dtype)  # type: ignore[assignment]
    assert compare(files).difference < 5e-6
    wide = write(tmp_path, decoder(Toy(**FORMS[name])))
    narrow_bytes, wide_bytes = (
        sum(file.bytes for file in emitted.files if file.path.endswith(".data")) for emitted in (files.emitted, wide.emitted)
    )
    assert narrow_bytes < 0.75 * wide_bytes
    assert compare(wide).difference < 5e-6


def test_a_checkpoint_in_the_stored_dtype_is_copied(tmp_path: Path) -> None:
    """A matrix that is stored as the original stores it is neither widened nor narrowed on the way."""
    graph = Graph("extend")
    x = graph.add_input("x", "float32", ("batch", 4))
    kernel = graph.add_weight(Parameter((4, 16), "bfloat16", "w").cast("float32"))
    graph.outputs["y"] = graph.add_node("linear", [x, kernel])
    write(tmp_path, graph, stored_dtype="bfloat16")
    (tensor,) = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph.initializer
    assert (tensor.name, tensor.data_type) == ("w", TensorProto.BFLOAT16)


def test_narrow_storage_widens_only_the_rows_looked_up(tmp_path: Path) -> None:
    """An untied table stays narrow in memory: Gather first, then Cast."""
    write(tmp_path, decoder(Toy()), stored_dtype="float16")
    nodes = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph.node
    gather = next(node for node in nodes if node.op_type == "Gather")
    assert gather.input[0] == "embedding.embeddings.float16"
    assert next(node for node in nodes if gather.output[0] in node.input).op_type == "Cast"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_bytes_read_by_every_call(dtype: str, tied: bool, tmp_path: Path) -> None:
    """Every matrix that is multiplied counts once and as wide as it is computed; a table of rows counts only where a head is tied to it."""
    files = write(tmp_path, decoder(Toy(tied=tied)), stored_dtype=dtype)
    weights = [weight for name, weight in files.graphs["extend"].weights.items() if name != "weight:embedding.embeddings"]
    expected = sum(weight.nbytes for weight in weights)
    (signature,) = files.emitted.signatures
    assert expected <= signature.weight_bytes < expected + 256  # and a few scalars


def test_refusals_name_the_thing(tmp_path: Path) -> None:
    """Options and dtypes that are not done exit with 4 and a code; nothing is written."""
    graph = decoder(Toy())
    source = source_of(graph)
    for options in (EmitOptions(8, opset_only=True), EmitOptions(8, stored_dtype="int8")):
        with pytest.raises(UnsupportedError) as error:
            emit({"extend": graph}, source, tmp_path, options)
        assert error.value.code.startswith("KX2") and error.value.hint
    with pytest.raises(UsageError):
        emit({"extend": graph}, source, tmp_path, EmitOptions(0))
    half = Graph("extend", slots={"self.0": type(graph.slots["self.0"])("self", 1, 8, 8, "float16")})
    with pytest.raises(UnsupportedError, match=r"self\.0"):
        emit({"extend": half}, source, tmp_path, EmitOptions(8))
    assert not list(tmp_path.iterdir())


def test_two_weights_of_one_label_get_two_names(tmp_path: Path) -> None:
    """Labels that collide are told apart instead of overwriting each other."""
    graph = Graph("extend")
    x = graph.add_input("x", "float32", ("batch", 4))
    for name, offset in (("a", 1.0), ("b", 1.0 + 1e-9)):
        graph.weights[name] = Parameter((4, 4), "float32", "w").plus(offset)
        graph.types[name] = TensorType("float32", (4, 4))
    graph.outputs["y"] = graph.add_node("linear", [graph.add_node("linear", [x, "a"]), "b"])
    write(tmp_path, graph)
    names = [tensor.name for tensor in onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph.initializer]
    assert names == ["w.plus1", "w.plus1_2"]


def test_unknown_target_names_the_known_ones() -> None:
    """A wrong target is a usage error that lists what there is."""
    assert "onnx" in targets.known()
    assert targets.get("onnx").name == "onnx"
    with pytest.raises(UsageError) as error:
        targets.get("onxx")
    assert "onnx" in error.value.hint


def test_vendor_files_are_json_of_the_right_sizes(tmp_path: Path) -> None:
    """config.json and genai_config.json carry the graph's sizes, the stored head size included."""
    files = write(tmp_path, decoder(Toy(head_dim=20)))
    records, _ = targets.get("onnx").write_vendor_files(tmp_path, files.emitted, stop_token_ids=[7, 9], start_token_id=2)
    assert {record.path for record in records} == {"config.json", "generation_config.json", "genai_config.json"}
    genai = json.loads((tmp_path / "genai_config.json").read_text())["model"]
    assert genai["decoder"]["head_size"] == 24
    assert (genai["eos_token_id"], genai["bos_token_id"], genai["vocab_size"]) == ([7, 9], 2, 61)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [7, 9]
    assert op_counts(files)["GroupQueryAttention"] == 2
