"""Writing a model: OpenVINO serializes the graph, and its constants are pointed at the places where the `.bin` file already has them.

The serializer would write every weight a second time; here the weights were streamed to the file while the graph was built
(weight_file.py), and what the serializer adds is the small constants. Names of operators are numbered in the model's own order, because
OpenVINO's automatic ones count over the whole process: two runs give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from kexport.runtime.contract.errors import InternalError
from kexport.runtime.contract.manifest import File
from kexport.targets.openvino.weight_file import Place, WeightFile

CONSTANT = "Constant"
# What the plugin would otherwise choose by itself: a cache of 8-bit numbers. It reads these two only: not INFERENCE_PRECISION_HINT (2026.4).
RUNTIME_OPTIONS = {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
_CONSTANT_LAYER = re.compile(r'(<layer id="\d+" name="(?P<name>[^"]*)" type="Const"[^>]*>\s*<data [^>]*?)offset="\d+" size="(?P<size>\d+)"')
_AUTOMATIC = re.compile(r"(Parameter|Result)_\d+")
_ESCAPES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}


def write_ir(model: ov.Model, path: Path, weights: WeightFile, places: Mapping[str, Place]) -> File:
    """Write `path` (.xml) over the constants in `weights` (.bin), to which the small ones are added. `places`: where the named weights stand.

    Returns the record of `path`. Raises OSError as the file system does.
    """
    for option, value in RUNTIME_OPTIONS.items():
        model.set_rt_info(value, ["runtime_options", option])
    ours = {node.get_friendly_name() for node in (*model.get_parameters(), *model.get_results())}
    name_operators(model, ours | set(places))
    ov.serialize(model, str(path), os.devnull)
    constants = {node.get_friendly_name(): node for node in model.get_ordered_ops() if node.get_type_name() == CONSTANT}

    def place(match: re.Match[str]) -> str:
        name = _unescaped(match["name"])
        stands = places.get(name) or weights.append_bytes(_content(constants[name]))
        if stands.size != int(match["size"]):
            raise InternalError("KX920", f"constant `{name}` has {match['size']} bytes in the model and {stands.size} in the file")
        return f'{match[1]}offset="{stands.offset}" size="{stands.size}"'

    text, replaced = _CONSTANT_LAYER.subn(place, path.read_text(encoding="utf-8"))
    if replaced != len(constants):
        raise InternalError("KX920", f"`{path.name}` has {len(constants)} constants, of which {replaced} were placed")
    content = text.encode()
    path.write_bytes(content)
    return File(path=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def name_operators(model: ov.Model, keep: Container[str] = ()) -> None:
    """Give every operator that is not in `keep` its type and its number in the model's order as its name; the tensors of inputs and
    outputs lose names that OpenVINO made up."""
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name() not in keep:
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    for port in (*model.inputs, *model.outputs):
        names = {name for name in port.get_names() if not _AUTOMATIC.fullmatch(name)}
        port.get_tensor().set_names(names or {port.get_node().get_friendly_name()})


def file_record(path: Path) -> File:
    """Name, size and SHA-256 of a small file."""
    content = path.read_bytes()
    return File(path=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _content(constant: Any) -> bytes:
    return np.ascontiguousarray(constant.get_data()).tobytes()


def _unescaped(name: str) -> str:
    for escaped, character in _ESCAPES.items():
        name = name.replace(escaped, character)
    return name
