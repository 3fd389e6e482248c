"""The TensorFlow operators an artifact may hold: stock kernels that every build of the runtime has, on the CPU and without Python.

Nothing that calls back into Python, no strings, no custom libraries. A lowering that needs another operator enters it here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from kexport.runtime.contract.errors import InternalError
from tensorflow.core.protobuf import saved_model_pb2

# The frame: arguments, functions, the loop, variables, and what reads them from the checkpoint.
FRAME = frozenset({
    "Const", "Placeholder", "NoOp", "Identity", "IdentityN", "StatefulPartitionedCall", "PartitionedCall", "While", "StatelessWhile", "If",
    "StatelessIf", "VarHandleOp", "ReadVariableOp", "AssignVariableOp", "RestoreV2", "SaveV2", "ShardedFilename", "MergeV2Checkpoints",
    "StaticRegexFullMatch", "Select", "StringJoin", "DisableCopyOnRead", "Pack", "Fill", "EnsureShape",
})  # fmt: skip
NUMBERS = frozenset({
    "Abs", "AddV2", "All", "Any", "ArgMax", "BatchMatMulV2", "BroadcastTo", "Cast", "ConcatV2", "Cos", "Cumsum", "Empty", "Equal", "Erf", "Exp",
    "ExpandDims", "GatherV2", "Greater", "InplaceUpdate", "Less", "LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "MatMul", "Max",
    "Maximum", "Mean", "Minimum", "Mul", "Neg", "OneHot", "Pow", "Prod", "Range", "RealDiv", "Relu", "Reshape", "ResourceGather", "Rsqrt",
    "SelectV2", "Shape", "Sigmoid", "Sin", "Slice", "Softmax", "Softplus", "Split", "SplitV", "Sqrt", "Square", "Squeeze",
    "StatelessMultinomial", "StatelessRandomGetKeyCounter", "StridedSlice", "Sub", "Sum", "Tanh", "TopKV2", "Transpose", "ZerosLike",
})  # fmt: skip
# What differentiating the others brings (`score_gradients`).
GRADIENTS = frozenset({
    "AddN", "BroadcastGradientArgs", "ConcatOffset", "DynamicStitch", "FloorDiv", "FloorMod", "GreaterEqual", "InvertPermutation",
    "OnesLike", "Pad", "PreventGradient", "Rank", "Reciprocal", "ReluGrad", "RsqrtGrad", "ShapeN", "SigmoidGrad", "Sign", "Size",
    "SoftplusGrad", "SparseSoftmaxCrossEntropyWithLogits", "SqrtGrad", "StridedSliceGrad", "TanhGrad", "Tile", "UnsortedSegmentSum",
})  # fmt: skip
ALLOWED = FRAME | NUMBERS | GRADIENTS


def count_operators(directory: Path) -> Counter[str]:
    """How often each operator stands in `saved_model.pb`, functions included, the frame left out.

    Raises:
        InternalError: one of them is not in the list.
    """
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((directory / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0].graph_def
    found = Counter(node.op for nodes in (graph.node, *(function.node_def for function in graph.library.function)) for node in nodes)
    unknown = sorted(set(found) - ALLOWED)
    if unknown:
        raise InternalError("KX912", f"the SavedModel would need operators that are not in its list: {', '.join(unknown)}")
    return Counter({name: count for name, count in found.items() if name in NUMBERS})
