"""The artifact through TensorFlow's C API, from the library in the wheel: KerasHub's tokens without Python's TensorFlow."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.seed_models import MAX_LENGTH

pytestmark = pytest.mark.slow


def described(directory: Path) -> dict[str, Any]:
    """The signatures' tensors by name, read off the file as any host would."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString((directory / "saved_model.pb").read_bytes())
    return {
        name: {
            "inputs": {key: tensor.name for key, tensor in signature.inputs.items()},
            "outputs": {key: tensor.name for key, tensor in signature.outputs.items()},
        }
        for name, signature in model.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }


@pytest.mark.parametrize(("name", "stored"), [("mistral", "float32"), ("gemma2", "float32"), ("bloom", "float32"), ("mistral_bfloat16", "bfloat16")])
def test_tokens_through_the_c_api(name: str, stored: str, tmp_path: Path) -> None:
    """Both the host's own loop over prefill and decode and the loop inside the graph; compiled products where weights are stored narrow."""
    from tests.targets.savedmodel.artifacts import golden_artifact

    golden, manifest = golden_artifact(name, tmp_path, stored_dtype=stored)
    decode = manifest.signature("decode")
    assert decode is not None
    sizes = {"batch": 1, "capacity": MAX_LENGTH}
    cache = {s.name: [sizes.get(dim, dim) for dim in s.shape] for s in decode.inputs if s.name.startswith("kv_cache")}  # type: ignore[call-overload]
    prompt = golden.model.prompts[0]
    job = {"signatures": described(tmp_path), "cache": cache, "prompt": prompt, "new": MAX_LENGTH - len(prompt)}
    (tmp_path / "job.json").write_text(json.dumps(job))
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None and spec.origin is not None
    command = [
        sys.executable,
        str(Path(__file__).with_name("c_api.py")),
        str(Path(spec.origin).parent),
        str(tmp_path),
        str(tmp_path / "job.json"),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    result = json.loads(process.stdout.splitlines()[-1])
    assert result == {"host": golden.tokens[0], "graph": golden.tokens[0], "tensorflow": False}
