"""The file itself: weights once, behind the flatbuffer, one at a time in memory, the same bytes every time; what is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.errors import UnsupportedError, UsageError
from kexport.targets.base import EmitOptions
from kexport.targets.tflite import emit, write_vendor_files
from kexport.targets.tflite.plan import chosen_buckets, contexts, head_room

from tests.targets.onnx.toys import RandomSource, Toy, decoder, encoder, source_of
from tests.targets.tflite.helpers import Steps, write

TOY = Toy(tied=True, hidden=64, vocabulary=97)
EMIT_TWICE = """
import sys
from pathlib import Path
from tests.targets.onnx.toys import Toy, decoder
from tests.targets.tflite.helpers import write
write(Path(sys.argv[1]), decoder(Toy(tied=True, softcap=5.0, windows=(4, None))))
"""


def model_of(path: Path) -> Any:
    """The flatbuffer, read with the vendor's schema."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))


def test_weights_stand_once_behind_the_flatbuffer(tmp_path: Path) -> None:
    """Three signatures read the same buffers; the tied head reads the embedding table; the file has no second copy of anything."""
    files = write(tmp_path, decoder(TOY))
    model, raw = model_of(files.path), files.path.read_bytes()
    outside = [buffer for buffer in model.buffers if buffer.offset]
    assert all(buffer.offset % 64 == 0 and buffer.offset + buffer.size <= len(raw) for buffer in outside)
    assert max(len(buffer.data) for buffer in model.buffers if buffer.data is not None) <= 1024
    parameters = {p for weight in files.graphs["extend"].weights.values() for p in weight.parameters()}
    tables = 2 * files.emitted.cache.capacity * TOY.head_dim * 4
    assert sum(buffer.size for buffer in outside) == sum(p.nbytes for p in parameters) + tables
    shared: dict[int, set[int]] = {}
    for index, graph in enumerate(model.subgraphs):
        for tensor in graph.tensors:
            shared.setdefault(tensor.buffer, set()).add(index)
    assert sum(len(users) == len(model.subgraphs) for users in shared.values()) >= len(parameters) - 8
    table = next(i for i, b in enumerate(model.buffers) if b.size == 97 * 64 * 4)
    codes = {model.operatorCodes[o.opcodeIndex].builtinCode for o in readers(model.subgraphs[-1], table)}
    assert codes == {schema.BuiltinOperator.EMBEDDING_LOOKUP, schema.BuiltinOperator.FULLY_CONNECTED}


def readers(graph: Any, buffer: int) -> Iterator[Any]:
    places = {index for index, tensor in enumerate(graph.tensors) if tensor.buffer == buffer}
    return (operator for operator in graph.operators if places & set(operator.inputs.tolist()))


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Every parameter is read once, in file order, and the hook sees every tensor before the next is read."""
    events: list[str] = []

    class Source(RandomSource):
        def read(self, name: str) -> Any:
            events.append(f"read {name}")
            return super().read(name)

    graph = decoder(Toy(packed=False))
    source = Source(source_of(graph).shapes)
    write(tmp_path, graph, source, on_tensor=lambda name, array: events.append(f"write {array.nbytes}"))
    reads = [event for event in events if event.startswith("read")]
    assert len(reads) == len(set(reads)) == len(source.shapes)
    first = events.index(reads[0])
    assert all(events[place + 1].startswith("write") for place in range(first, len(events)) if events[place].startswith("read"))


def test_the_same_bytes_in_two_processes(tmp_path: Path) -> None:
    """Nothing depends on hashing, time, or paths."""
    digests = set()
    for seed in ("1", "2"):
        directory = tmp_path / seed
        directory.mkdir()
        subprocess.run(
            [sys.executable, "-c", EMIT_TWICE, str(directory)],
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
            cwd=Path(__file__).parents[3],
            capture_output=True,
        )
        digests.add(hashlib.sha256((directory / "model.tflite").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_record_of_the_file(tmp_path: Path) -> None:
    """Size and digest are those of what stands on disk."""
    files = write(tmp_path, decoder(TOY))
    (record,) = files.emitted.files
    raw = files.path.read_bytes()
    assert (record.path, record.bytes, record.sha256) == ("model.tflite", len(raw), hashlib.sha256(raw).hexdigest())


def test_traffic_of_a_step(tmp_path: Path) -> None:
    """A decode step reads every matrix once, the tied table because of the head, rotary tables by rows only."""
    files = write(tmp_path, decoder(TOY))
    parameters = {p for weight in files.graphs["extend"].weights.values() for p in weight.parameters()}
    step = next(s for s in files.emitted.signatures if s.name == "decode")
    assert 0 <= step.weight_bytes - sum(p.nbytes for p in parameters) < 1024  # and some scalars and masks
    untied = tmp_path / "untied"
    untied.mkdir()
    other = next(s for s in write(untied, decoder(Toy(hidden=64, vocabulary=97))).emitted.signatures if s.name == "decode")
    assert other.weight_bytes == step.weight_bytes


def test_names_and_shapes_of_the_signatures(tmp_path: Path) -> None:
    """LiteRT-LM's contract."""
    files = write(tmp_path, decoder(Toy()), capacity=24)
    prefill, *_, decode = files.emitted.signatures
    shapes = {spec.name: (spec.dtype, spec.shape) for spec in decode.inputs}
    assert shapes["tokens"] == ("int32", (1, 1)) and shapes["input_pos"] == ("int32", (1,))
    assert shapes["kv_cache_k_0"] == shapes["kv_cache_v_1"] == ("float32", (1, 2, 24, 16))
    assert {spec.name: spec.shape for spec in prefill.inputs}["tokens"] == (1, 4) and prefill.sequence_lengths == (4,)
    assert {spec.name for spec in prefill.outputs} == {"kv_cache_k_0", "kv_cache_v_0", "kv_cache_k_1", "kv_cache_v_1"}
    assert {spec.name: spec.shape for spec in decode.outputs}["logits"] == (1, 1, 61)
    with_runtime = Steps(files, xnnpack=False).interpreter.get_signature_list()
    assert {name: set(sides["inputs"]) for name, sides in with_runtime.items()} == {
        s.name: {spec.name for spec in s.inputs} for s in files.emitted.signatures
    }


def test_the_vendors_analyzer_reads_the_file(tmp_path: Path) -> None:
    """The model analyzer of LiteRT lists every signature's subgraph and finds no broken operator."""
    from ai_edge_litert import _pywrap_analyzer_wrapper as analyzer

    files = write(tmp_path, decoder(Toy()))
    report = analyzer.ModelAnalyzer(str(files.path), True, False)
    for signature in files.emitted.signatures:
        assert signature.name in report
    assert "DYNAMIC_UPDATE_SLICE" in report and "rror" not in report


def test_bucket_arithmetic() -> None:
    """Buckets are cut to the capacity; head room is what LiteRT-LM's padding may need; contexts double."""
    assert chosen_buckets((512, 16, 16, 128), 100) == (16, 100)
    assert head_room((16, 128, 512)) == 383 and head_room((1,)) == 0
    assert contexts(1024) == (256, 384, 512, 768) and contexts(256) == () and contexts(385) == (256, 384)
    with pytest.raises(UsageError, match="--prefill-buckets"):
        chosen_buckets((0, 16), 100)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"stored_dtype": "bfloat16"}, "KX234"),
        ({"package": "zip"}, "KX235"),
        ({"capacity": 0}, "KX103"),
        ({"prefill_buckets": (-1,)}, "KX107"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], code: str, tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises((UnsupportedError, UsageError)) as caught:
        write(tmp_path, decoder(Toy(layers=1)), **options)
    assert caught.value.code == code and not list(tmp_path.iterdir())


def test_models_that_are_refused(tmp_path: Path) -> None:
    """A cache of another dtype; a bundle of an encoder and a decoder; a bundle without a tokenizer."""
    graph = decoder(Toy(layers=1))
    graph.slots["self.0"] = Slot("self", 2, 16, 16, "float16")
    with pytest.raises(UnsupportedError, match="self.0"):
        write(tmp_path, graph)
    toy = Toy(cross=True, kv_heads=4)
    with pytest.raises(UnsupportedError, match="encoder"):
        write(tmp_path, {"encode": encoder(toy), "extend": decoder(toy)}, package="litertlm")
    files = write(tmp_path, decoder(Toy()), package="litertlm")
    with pytest.raises(UnsupportedError, match="tokenizer"):
        write_vendor_files(tmp_path, files.emitted)


@pytest.mark.slow
def test_a_file_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    """Offsets beyond 32 bits: the last weight of a 2.3 GB file is read right by the vendor's interpreter."""
    rows, width = 140_000, 4096

    class Source:
        def read(self, name: str) -> Any:
            if name == "table":
                return np.zeros((rows, width), np.float32)
            return np.full((width, 3), 0.5, np.float32)

    graph = Graph("extend")
    ids = graph.add_input("token_ids", "int32", ("batch", "sequence"))
    x = graph.add_node("embedding", [graph.add_weight(Parameter((rows, width), "float32", "table")), ids])
    x = graph.add_node("add", [x, graph.add_constant(np.float32(1))])
    graph.outputs["logits"] = graph.add_node("linear", [x, graph.add_weight(Parameter((width, 3), "float32", "head"))])
    emit({"extend": graph}, Source(), tmp_path, EmitOptions(4, prefill_buckets=(4,)))
    path = tmp_path / "model.tflite"
    assert path.stat().st_size > 2**31
    from ai_edge_litert.interpreter import Interpreter

    got = Interpreter(str(path)).get_signature_runner("decode")(tokens=np.array([[rows - 1]], np.int32))
    path.unlink()
    np.testing.assert_allclose(got["logits"], np.full((1, 1, 3), width / 2, np.float32))


def test_a_narrow_table_is_never_widened_as_a_whole(tmp_path: Path) -> None:
    """Rows are taken first; the tied head's matrix is widened by the delegate while it packs."""
    files = write(tmp_path, decoder(TOY), stored_dtype="float16")
    model = model_of(files.path)
    table = next(i for i, b in enumerate(model.buffers) if b.size == 97 * 64 * 2)
    codes = [model.operatorCodes[o.opcodeIndex].builtinCode for o in readers(model.subgraphs[-1], table)]
    assert codes == [schema.BuiltinOperator.GATHER, schema.BuiltinOperator.DEQUANTIZE]
    prefill = [model.operatorCodes[o.opcodeIndex].builtinCode for o in readers(model.subgraphs[0], table)]
    assert prefill == [schema.BuiltinOperator.GATHER]
