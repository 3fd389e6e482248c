"""Artifacts need TensorFlow and nothing else: no Keras, no kexport; and TensorFlow is imported without Keras by the engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ENGINE = """
import json, sys
from pathlib import Path
from kexport.runtime.engines.base import open_engine
from kexport.runtime.contract.manifest_io import read_manifest
import numpy as np
directory = Path(sys.argv[1])
with open_engine(directory, read_manifest(directory)) as engine:
    logits = engine.extend(engine.new_cache(1, 8), np.array([[3, 1, 2]]))
loaded = [name for name in sys.modules if name.split(".")[0] in ("keras", "keras_hub", "tf_keras")]
import keras
print(json.dumps([loaded, int(logits.argmax()), keras.__name__]))
"""
NOTHING_ELSE = """
import json, sys
for name in ("keras", "tf_keras", "keras_hub", "kexport", "tensorflow_text"):
    sys.modules[name] = None
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
zeros = {name: tf.zeros([1, *(4 if size is None else size for size in spec.shape[1:])], spec.dtype)
         for name, spec in model.signatures["prefill"].structured_input_signature[1].items() if name.startswith("kv_cache")}
given = {"tokens": tf.constant([[3, 1, 2]]), "input_pos": tf.constant([[0, 1, 2]]), "lengths": tf.constant([3])}
caches = {name: tf.identity(tensor + 0) for name, tensor in zeros.items()}
print(json.dumps(int(tf.argmax(model.signatures["prefill"](**given, **caches)["logits"][0, 0]))))
"""


def run(script: str, directory: Path) -> object:
    process = subprocess.run([sys.executable, "-c", script, str(directory)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_no_keras(tmp_path: Path) -> None:
    """The engine never imports Keras, which can be imported afterwards; plain TensorFlow without Keras and kexport gives the same token."""
    from kexport.runtime.contract.manifest_io import write_manifest

    from tests.targets.savedmodel.artifacts import golden_artifact

    _, manifest = golden_artifact("gemma", tmp_path)
    write_manifest(tmp_path, manifest)
    loaded, token, keras = run(ENGINE, tmp_path)  # type: ignore[misc]
    assert loaded == [] and keras == "keras"
    assert run(NOTHING_ELSE, tmp_path) == token
