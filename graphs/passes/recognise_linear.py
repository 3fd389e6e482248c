"""A product with a weight matrix is `linear`, and a bias added behind it belongs to it.

    1  matmul(x, weight [in, out])                  ->  linear(x, weight)
    2  add(linear(x, w), bias)                      ->  linear(x, w, bias)
    3  add(reshape(linear(x, w)), bias [heads, d])  ->  reshape(linear(x, w, bias [heads * d]))

Refused: case 2 and 3 where the product has another reader, or the bias does not lie on the trailing axes.
"""

from __future__ import annotations

import math

from kexport.graphs.ir import Graph, Node
from kexport.graphs.passes.base import Pass, Result


class RecogniseLinear(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        for node in graph.of_op("matmul"):
            weight = graph.weights.get(node.input(1))
            if weight is not None and len(weight.shape) == 2:
                node.op = "linear"
                result.changes += 1
        for node in graph.of_op("add"):
            self._take_bias(graph, node, result)

    def _take_bias(self, graph: Graph, node: Node, result: Result) -> None:
        left, right = node.inputs
        if left in graph.weights:
            left, right = right, left
        bias = graph.weights.get(right)
        producer = graph.producers().get(left)
        reshape = producer if producer is not None and producer.op == "reshape" else None
        linear = graph.producers().get(reshape.input(0)) if reshape is not None else producer
        if bias is None or linear is None or linear.op != "linear" or linear.input(2):
            return
        shape = graph.type_of(left).shape
        trailing = shape[len(shape) - len(bias.shape) :]
        width = graph.type_of(linear.output).shape[-1]
        if tuple(trailing) != bias.shape or math.prod(bias.shape) != width:
            result.refusals.append(f"{node.layer or node.output}: the bias {bias.label} does not lie on the product's last axis")
            return
        readers = graph.readers()
        if len(readers.get(linear.output, [])) != 1 or len(readers.get(left, [])) != 1 or left in graph.outputs.values():
            result.refusals.append(f"{node.layer or node.output}: the product before the bias {bias.label} is read elsewhere, too")
            return
        linear.inputs = (linear.input(0), linear.input(1), graph.add_weight(bias.reshape((math.prod(bias.shape),))))
        graph.replace_uses(node.output, left)
        graph.nodes.remove(node)
        result.changes += 1
