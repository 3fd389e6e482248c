"""The directory: `saved_model.pb` from functions over empty variables, then `variables/` written in parts, a few tensors in memory at a time.

TensorFlow's own way of saving holds every variable. Here the graph is saved without its checkpoint; the tensor files are written part by
part (SaveV2) and joined by name only (MergeV2Checkpoints renames the files, it copies nothing). `tests/targets/savedmodel` loads what
comes out with TensorFlow in Python and through its C API, for every TensorFlow that is supported: two of the calls below are not public.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from kexport.graphs.weights import Weight, WeightSource
from kexport.runtime.contract.errors import InternalError
from kexport.targets.base import TensorHook
from tensorflow.python.checkpoint import checkpoint, graph_view
from tensorflow.python.saved_model import save

PART_BYTES = 128 << 20  # of one file in variables/: what is in memory at a time, besides a tensor that is larger
GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
VARIABLES = "variables"
ASSETS = "assets"  # TensorFlow makes this folder even for nothing
UNIQUE = "fingerprint.pb"  # holds a random number, and nothing that loading needs


def write(
    module: Any,
    functions: Mapping[str, Any],
    weights: Mapping[str, Weight],
    source: WeightSource,
    directory: Path,
    on_tensor: TensorHook | None,
) -> None:
    """Save `module` with these signatures; `module.weights` holds the variables of `weights` under the same labels."""
    save.save_and_return_nodes(module, str(directory), signatures=dict(functions), experimental_skip_checkpoint=True)
    (directory / UNIQUE).unlink(missing_ok=True)
    if (directory / ASSETS).is_dir() and not any((directory / ASSETS).iterdir()):
        (directory / ASSETS).rmdir()
    view = graph_view.ObjectGraphView(module)
    *_, object_graph = checkpoint.TrackableSaver(view)._gather_serialized_tensors(None)
    keys = _keys(object_graph, module)
    if set(keys) != set(weights):
        raise InternalError("KX912", f"{len(weights)} weights, but TensorFlow saves {len(keys)} variables")
    folder = directory / VARIABLES
    folder.mkdir(exist_ok=True)
    parts: list[str] = []
    with tf.device("CPU"):
        for labels, is_last in _parts(weights):
            tensors = {keys[label]: _tensor(label, weights[label], source, on_tensor) for label in labels}
            if is_last:
                tensors[GRAPH_KEY] = tf.constant(object_graph.SerializeToString(deterministic=True))
            parts.append(_write_part(folder, len(parts), tensors))
            del tensors
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(folder / VARIABLES), delete_old_dirs=True)


def _keys(object_graph: Any, module: Any) -> dict[str, str]:
    """Label -> the name under which TensorFlow looks for the variable's value."""
    nodes = object_graph.nodes
    root = {child.local_name: child.node_id for child in nodes[0].children}
    labels = {child.local_name: child.node_id for child in nodes[root["weights"]].children}
    return {label: nodes[index].attributes[0].checkpoint_key for label, index in labels.items() if nodes[index].attributes}


def _parts(weights: Mapping[str, Weight]) -> Iterator[tuple[list[str], bool]]:
    """Labels in order, as many at a time as PART_BYTES allow, and whether they are the last."""
    part: list[str] = []
    size = 0
    for label, weight in weights.items():
        if part and size + weight.nbytes > PART_BYTES:
            yield part, False
            part, size = [], 0
        part.append(label)
        size += weight.nbytes
    yield part, True


def _tensor(label: str, weight: Weight, source: WeightSource, on_tensor: TensorHook | None) -> Any:
    array = weight.materialize(source)
    array = np.ascontiguousarray(array).reshape(array.shape)  # numpy makes a scalar one-dimensional
    if on_tensor is not None:
        on_tensor(label, array)
    return tf.constant(array)


def _write_part(folder: Path, number: int, tensors: Mapping[str, Any]) -> str:
    """Write one part; its prefix. Parts are numbered so that their order by name is their order."""
    part = folder / f"part{number:05d}"
    part.mkdir()
    prefix = str(part / "part")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=list(tensors), shape_and_slices=[""] * len(tensors), tensors=list(tensors.values()))
    return prefix
