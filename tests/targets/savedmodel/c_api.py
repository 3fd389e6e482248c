"""A SavedModel through TensorFlow's C API with ctypes: what a host without Python does. Run as a script, in a process without TensorFlow.

python c_api.py LIBRARY_FOLDER DIRECTORY JOB.json     prints the result as JSON
JOB: {"signatures": {name: {"inputs": {name: "op:0"}, "outputs": {...}}}, "cache": {name: shape}, "prompt": [ids], "new": n}
"""

from __future__ import annotations

import ctypes
import glob
import json
import sys
from typing import Any

import numpy as np

FLOAT, INT32 = 1, 3  # TF_DataType
DTYPES = {np.dtype(np.float32): FLOAT, np.dtype(np.int32): INT32}
THREADS = bytes([0x10, 2, 0x28, 1])  # ConfigProto: intra_op_parallelism_threads 2, inter_op_parallelism_threads 1
Pointer = ctypes.c_void_p


class Output(ctypes.Structure):
    """TF_Output."""

    _fields_ = [("operation", Pointer), ("index", ctypes.c_int)]


class Session:
    """A loaded model."""

    def __init__(self, folder: str, directory: str, signatures: dict[str, Any]) -> None:
        self.signatures = signatures
        ctypes.CDLL(glob.glob(f"{folder}/libtensorflow_framework.so*")[0], mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(glob.glob(f"{folder}/libtensorflow_cc.so*")[0], mode=ctypes.RTLD_GLOBAL)
        for name in (
            "NewStatus",
            "NewGraph",
            "NewSessionOptions",
            "LoadSessionFromSavedModel",
            "GraphOperationByName",
            "AllocateTensor",
            "TensorData",
        ):
            getattr(self.library, f"TF_{name}").restype = Pointer
        self.library.TF_Message.restype = ctypes.c_char_p
        self.library.TF_Dim.restype = ctypes.c_int64
        self.status, self.graph = Pointer(self.library.TF_NewStatus()), Pointer(self.library.TF_NewGraph())
        options = Pointer(self.library.TF_NewSessionOptions())
        self.library.TF_SetConfig(options, THREADS, ctypes.c_size_t(len(THREADS)), self.status)
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = Pointer(
            self.library.TF_LoadSessionFromSavedModel(options, None, directory.encode(), tags, 1, self.graph, None, self.status)
        )
        self.check()

    def check(self) -> None:
        if self.library.TF_GetCode(self.status):
            raise RuntimeError(self.library.TF_Message(self.status).decode())

    def tensor(self, array: Any) -> Any:
        """A TF_Tensor with a copy of the array."""
        array = np.asarray(array, order="C")
        sizes = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        tensor = Pointer(self.library.TF_AllocateTensor(DTYPES[array.dtype], sizes, array.ndim, ctypes.c_size_t(array.nbytes)))
        ctypes.memmove(self.library.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def array(self, tensor: Any, dtype: Any) -> Any:
        """A copy of a TF_Tensor's numbers."""
        shape = [self.library.TF_Dim(tensor, axis) for axis in range(self.library.TF_NumDims(tensor))]
        pointer = ctypes.cast(self.library.TF_TensorData(tensor), ctypes.POINTER(np.ctypeslib.as_ctypes_type(dtype)))
        return np.ctypeslib.as_array(pointer, (int(np.prod(shape)),)).reshape(shape).copy()

    def output(self, reference: str) -> Output:
        name, _, index = reference.partition(":")
        operation = self.library.TF_GraphOperationByName(self.graph, name.encode())
        if not operation:
            raise RuntimeError(f"no operation {name}")
        return Output(operation, int(index))

    def run(self, signature: str, feeds: dict[str, Any]) -> dict[str, Any]:
        """TF_Tensors in, TF_Tensors out, by the signature's names."""
        described = self.signatures[signature]
        wanted = list(described["outputs"])
        inputs = (Output * len(feeds))(*(self.output(described["inputs"][name]) for name in feeds))
        values = (Pointer * len(feeds))(*feeds.values())
        outputs = (Output * len(wanted))(*(self.output(described["outputs"][name]) for name in wanted))
        results = (Pointer * len(wanted))()
        self.library.TF_SessionRun(
            self.session, None, inputs, values, len(feeds), outputs, results, len(wanted), None, 0, None, self.status
        )  # fmt: skip
        self.check()
        return {name: Pointer(result) for name, result in zip(wanted, results, strict=True)}


def host_loop(session: Session, job: dict[str, Any]) -> list[int]:
    """Prefill, then decode, greedy; the caches go from call to call without a copy of ours."""
    prompt = job["prompt"]
    caches = {name: session.tensor(np.zeros(shape, np.float32)) for name, shape in job["cache"].items()}
    feeds = {
        "tokens": session.tensor(np.array([prompt], np.int32)),
        "input_pos": session.tensor(np.arange(len(prompt), dtype=np.int32)[None]),
        "lengths": session.tensor(np.array([len(prompt)], np.int32)),
    }
    outputs = session.run("prefill", feeds | caches)
    tokens = list(prompt)
    for _ in range(job["new"]):
        tokens.append(int(session.array(outputs["logits"], np.float32).argmax()))
        feeds = {
            "tokens": session.tensor(np.array([[tokens[-1]]], np.int32)),
            "input_pos": session.tensor(np.array([[len(tokens) - 1]], np.int32)),
        }
        outputs = session.run("decode", feeds | {name: outputs[name] for name in caches})
    return tokens


def graph_loop(session: Session, job: dict[str, Any]) -> list[int]:
    """The loop inside the graph, greedy."""
    prompt = job["prompt"]
    feeds = {"tokens": np.array([prompt], np.int32), "lengths": np.array([len(prompt)], np.int32), "stop_token_ids": np.zeros(0, np.int32)}
    feeds |= {name: np.asarray(value, np.int32) for name, value in (("max_new_tokens", job["new"]), ("top_k", 0), ("seed", 0))}
    feeds |= {name: np.asarray(value, np.float32) for name, value in (("temperature", 0), ("top_p", 1))}
    outputs = session.run("generate", {name: session.tensor(array) for name, array in feeds.items()})
    return [int(token) for token in session.array(outputs["token_ids"], np.int32)[0]]


def main() -> None:
    folder, directory, job_file = sys.argv[1:]
    with open(job_file) as file:
        job = json.load(file)
    session = Session(folder, directory, job["signatures"])
    sys.stdout.write(
        json.dumps({"host": host_loop(session, job), "graph": graph_loop(session, job), "tensorflow": "tensorflow" in sys.modules}) + "\n"
    )


if __name__ == "__main__":
    main()
