"""What stands in the directory: names, operators, bytes that do not change, memory that does not grow with the model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.ir import Graph
from kexport.graphs.weights import Parameter
from kexport.runtime.contract.errors import InternalError, UnsupportedError, UsageError
from kexport.targets.base import EmitOptions

from tests.targets.onnx.toys import Toy, decoder, encoder, source_of

pytestmark = pytest.mark.slow


def emitted(directory: Path, *graphs: Graph, **options: Any) -> Any:
    from kexport.targets import get

    return get("savedmodel").emit(
        {graph.name: graph for graph in graphs}, source_of(*graphs), directory, EmitOptions(**{"capacity": 24} | options)
    )


def test_names_are_those_of_the_contract(tmp_path: Path) -> None:
    """Signatures and tensors of a decoder, batch and lengths open."""
    result = emitted(tmp_path, decoder(Toy()))
    signatures = {signature.name: signature for signature in result.signatures}
    assert list(signatures) == ["prefill", "decode", "generate"]
    caches = ["kv_cache_k_0", "kv_cache_v_0", "kv_cache_k_1", "kv_cache_v_1"]
    assert sorted(spec.name for spec in signatures["prefill"].inputs) == sorted(["tokens", "input_pos", "lengths", *caches])
    assert sorted(spec.name for spec in signatures["decode"].inputs) == sorted(["tokens", "input_pos", *caches])
    assert sorted(spec.name for spec in signatures["decode"].outputs) == sorted(["logits", *caches])
    assert {spec.name: spec.shape for spec in signatures["decode"].inputs}["kv_cache_k_0"] == ("batch", 2, "capacity", 16)


def test_the_file_has_what_the_records_say(tmp_path: Path) -> None:
    """Every signature of the records is in the file with the same tensors, dtypes and sizes."""
    from tensorflow.core.protobuf import saved_model_pb2

    toy = Toy(cross=True, kv_heads=4)
    result = emitted(tmp_path, encoder(toy), decoder(toy))
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((tmp_path / "saved_model.pb").read_bytes())
    stored = model.meta_graphs[0].signature_def
    assert [signature.name for signature in result.signatures] == ["prefill", "decode", "encode", "generate"]
    for signature in result.signatures:
        for specs, tensors in ((signature.inputs, stored[signature.name].inputs), (signature.outputs, stored[signature.name].outputs)):
            assert {spec.name for spec in specs} == set(tensors), signature.name
            for spec in specs:
                sizes = [dim.size for dim in tensors[spec.name].tensor_shape.dim]
                wanted = [size if isinstance(size, int) else -1 for size in spec.shape]
                assert len(sizes) == len(wanted) and all(a in (b, -1) for a, b in zip(sizes, wanted, strict=True)), spec


def test_products_are_of_rank_two(tmp_path: Path) -> None:
    """Batched products stand in attention only: two a layer and signature that has it (prefill, decode, and both again in generate)."""
    result = emitted(tmp_path, decoder(Toy(layers=3)))
    assert result.ops["BatchMatMulV2"] == 2 * 3 * 4
    assert "Einsum" not in result.ops


def test_operators_outside_the_list_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lowering that slips in another operator does not get into an artifact unseen."""
    from kexport.targets.savedmodel import allowed_ops

    monkeypatch.setattr(allowed_ops, "ALLOWED", allowed_ops.ALLOWED - {"Rsqrt"})
    with pytest.raises(InternalError, match="Rsqrt"):
        emitted(tmp_path, decoder(Toy()))


def test_tied_tables_are_stored_once(tmp_path: Path) -> None:
    """A head that is the embedding table adds no bytes."""
    tied, untied = (emitted(tmp_path / str(flag), decoder(Toy(tied=flag))) for flag in (True, False))
    size = [sum(file.bytes for file in result.files if "data" in file.path) for result in (tied, untied)]
    assert size[1] - size[0] == pytest.approx(61 * 32 * 4, rel=0.05)


SCRIPT = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from tests.targets.savedmodel.artifacts import golden_artifact
golden_artifact("gemma", Path(sys.argv[1]))
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """Nothing random, no time, no order of a set."""
    contents = []
    for number in (1, 2):
        directory = tmp_path / str(number)
        directory.mkdir()
        script = SCRIPT.format(root=str(Path(__file__).parents[3]))
        subprocess.run([sys.executable, "-c", script, str(directory)], check=True, env=os.environ | {"PYTHONHASHSEED": str(number)})
        contents.append({path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()})
    assert list(contents[0]) and contents[0] == contents[1]


def test_variables_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With parts of 4 kB there are many files; no more weights than a part are read before it is written; the result is the same."""
    from kexport.runtime.plain_tensorflow import tf
    from kexport.targets.savedmodel import checkpoint

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    emitted(whole, decoder(Toy()))
    held: list[int] = [0]
    monkeypatch.setattr(checkpoint, "PART_BYTES", 4096)
    write_part = checkpoint._write_part

    def counting(*arguments: Any) -> str:
        assert held[0] <= 4096 or len(arguments[2]) <= 2
        held[0] = 0
        return write_part(*arguments)

    def on_tensor(name: str, array: Any) -> None:
        held[0] += array.nbytes

    monkeypatch.setattr(checkpoint, "_write_part", counting)
    emitted(parts, decoder(Toy()), on_tensor=on_tensor)
    assert len(list((parts / "variables").iterdir())) > 4
    readers = [tf.train.load_checkpoint(str(directory / "variables/variables")) for directory in (whole, parts)]
    names = [name for name in readers[0].get_variable_to_shape_map() if not name.startswith("_")]
    assert names
    for name in names:
        assert (readers[0].get_tensor(name) == readers[1].get_tensor(name)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_weights_are_stored_narrow(dtype: str, tmp_path: Path) -> None:
    """Half the bytes, and the logits of a model whose matrices were rounded to that dtype."""
    from kexport.runtime.engines.base import open_engine

    from tests.targets.onnx.toys import Reference
    from tests.targets.savedmodel.artifacts import emit

    graph = decoder(Toy(hidden=64, tied=True, packed=False))
    source = source_of(graph)
    wide = emit(tmp_path / "wide", {"extend": graph}, source)
    manifest = emit(tmp_path / "narrow", {"extend": graph}, source, stored_dtype=dtype)
    sizes = [sum(file.bytes for file in m.files if "data" in file.path) for m in (wide, manifest)]
    assert sizes[1] < 0.6 * sizes[0]

    from kexport.converter.rounding import RoundedWeights

    reference = Reference(graph, RoundedWeights(source, dtype), 1)  # type: ignore[arg-type]
    with open_engine(tmp_path / "narrow", manifest) as engine:
        tokens = np.array([[3, 7, 11, 2]])
        got, want = engine.extend(engine.new_cache(1, 8), tokens), reference.extend(tokens, np.array([4]))[:, 0]
    assert np.abs(got - want).max() < 2e-5 * want.std()


def test_refusals(tmp_path: Path) -> None:
    """A dtype it cannot store, a capacity of nothing, no graph to emit, an op that nobody can lower."""
    with pytest.raises(UnsupportedError, match="int8"):
        emitted(tmp_path, decoder(Toy()), stored_dtype="int8")
    with pytest.raises(UsageError, match="--max-length"):
        emitted(tmp_path, decoder(Toy()), capacity=0)
    with pytest.raises(InternalError, match="extend"):
        emitted(tmp_path, encoder(Toy(cross=True, kv_heads=4)))


def test_two_weights_of_one_name_are_a_bug_not_a_wrong_file() -> None:
    """Labels name the variables; a clash is refused."""
    from kexport.targets.savedmodel.weight_tensors import WeightTensors

    tensors = WeightTensors()
    tensors.variable(Parameter((2, 3), "float32", "kernel"))
    with pytest.raises(InternalError, match="kernel"):
        tensors.variable(Parameter((3, 2), "float32", "kernel"))
