"""linear -> MatMul with the weight as [out, in], the layout of the plugin's FullyConnected (+ Add).

A head tied to the embedding table therefore reads the very tensor that ids are looked up in; there is no second copy.
"""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op


@lowers("linear")
def lower(node: Node, b: Builder) -> None:
    """x @ weight + bias."""
    x, name = b.value(node.input(0)), node.input(1)
    if name in b.graph.weights:
        made = op.matmul(x, b.weight(b.graph.weights[name].transpose((1, 0))), False, True)
    else:
        made = op.matmul(x, b.value(name), False, False)
    bias = b.optional(node.input(2))
    if bias is not None:
        size, rank = b.type_of(node.input(2)).shape, len(b.type_of(node.output).shape)
        made = op.add(made, b.reshape(bias, size, (1,) * (rank - 1) + size))
    b.set(node.output, made)
