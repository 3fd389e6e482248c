"""Einsum and the matmuls -> transpose, reshape and matmul. A weight operand is brought to [in, out] lazily, so that the
recognise_linear pass finds it.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

import tensorflow as tf
from kexport.graphs.capture.importing.importer import COMPUTE_DTYPE, Importer, imports
from kexport.graphs.capture.importing.layout import reshape_value
from kexport.graphs.dims import Dim, product


@dataclass(frozen=True, slots=True)
class Operand:
    """One side of an einsum: its graph value or weight, its labels."""

    tensor: tf.Tensor
    labels: str


def _spelled(op: tf.Operation) -> str:
    """The equation, with letters for the axes that "..." stands for where one operand has them."""
    equation = op.get_attr("equation").decode()
    operands = equation.partition("->")[0].split(",")
    hidden = [tensor.shape.rank - len(labels.replace("...", "")) for labels, tensor in zip(operands, op.inputs, strict=True) if "..." in labels]
    if len(hidden) != 1 or equation.count("...") > len(("operand", "result")):
        return str(equation)
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    return str(equation.replace("...", "".join(unused[: hidden[0]])))


@imports("Einsum")
def einsum(importer: Importer, op: tf.Operation) -> None:
    equation = _spelled(op)
    left, right, result = equation.replace(" ", "").replace("->", ",").split(",") if equation.count(",") == 1 else ("", "", "")
    if not left or "." in equation or any(len(set(labels)) != len(labels) for labels in (left, right, result)):
        raise importer.refuse(op, f"the equation {equation}")
    contract(importer, Operand(op.inputs[0], left), Operand(op.inputs[1], right), result, op.outputs[0])


def contract(importer: Importer, left: Operand, right: Operand, result: str, target: tf.Tensor) -> None:
    """Set `target` to the contraction of two operands, numpy's einsum rule for two operands without repeated labels."""
    if importer.weight(left.tensor) is not None and importer.weight(right.tensor) is None:
        left, right = right, left
    shared = [label for label in left.labels if label in right.labels]
    batch = [label for label in shared if label in result]
    inner = [label for label in shared if label not in result]
    outer_left = [label for label in left.labels if label not in shared]
    outer_right = [label for label in right.labels if label not in shared]
    sizes: dict[str, Dim] = {}
    for operand in (left, right):
        sizes.update(zip(operand.labels, importer.shape(operand.tensor), strict=True))
    weight = importer.weight(right.tensor)
    if weight is not None and not batch:
        rows = _arranged(importer, left, outer_left + inner, [*(sizes[x] for x in outer_left), product(sizes[x] for x in inner)])
        order = tuple(right.labels.index(label) for label in inner + outer_right)
        matrix = weight.cast(COMPUTE_DTYPE).transpose(order)
        matrix = matrix.reshape((_fixed(product(sizes[x] for x in inner)), _fixed(product(sizes[x] for x in outer_right))))
        name = importer.node("matmul", [rows, importer.graph.add_weight(matrix)])
    else:
        stack = [sizes[label] for label in batch]
        a = _arranged(importer, left, batch + outer_left + inner, [*stack, product(sizes[x] for x in outer_left), product(sizes[x] for x in inner)])
        b = _arranged(importer, right, batch + inner + outer_right, [*stack, product(sizes[x] for x in inner), product(sizes[x] for x in outer_right)])
        name = importer.node("matmul", [a, b])
    labels = batch + outer_left + outer_right
    name = reshape_value(importer, name, tuple(sizes[label] for label in labels))
    order = tuple(labels.index(label) for label in result)
    importer.set(target, name if order == tuple(range(len(order))) else importer.node("transpose", [name], permutation=order))


def _fixed(dim: Dim) -> int:
    return int(dim)


def _arranged(importer: Importer, operand: Operand, labels: list[str], shape: list[Dim]) -> str:
    """The operand with its axes in the order of `labels`, merged to `shape`."""
    name = importer.value(operand.tensor)
    order = tuple(operand.labels.index(label) for label in labels)
    if order != tuple(range(len(order))):
        name = importer.node("transpose", [name], permutation=order)
    return reshape_value(importer, name, tuple(shape))


@imports("MatMul", "BatchMatMulV2", "BatchMatMulV3")
def matmul(importer: Importer, op: tf.Operation) -> None:
    names = ("transpose_a", "transpose_b") if op.type == "MatMul" else ("adj_x", "adj_y")
    operands = []
    for tensor, flag in zip(op.inputs, names, strict=True):
        rank = len(importer.shape(tensor))
        order = (*range(rank - 2), rank - 1, rank - 2) if op.get_attr(flag) else tuple(range(rank))
        weight = importer.weight(tensor)
        if weight is not None:
            operands.append(importer.graph.add_weight(weight.cast(COMPUTE_DTYPE).transpose(order)))
        else:
            name = importer.value(tensor)
            operands.append(importer.node("transpose", [name], permutation=order) if op.get_attr(flag) else name)
    importer.set(op.outputs[0], importer.node("matmul", operands))
