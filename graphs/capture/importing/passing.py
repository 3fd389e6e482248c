"""Ops that pass a value on: identities, reads, constants."""

from __future__ import annotations

import tensorflow as tf
from kexport.graphs.capture.importing.importer import Constant, Importer, WeightValue, imports


@imports("Identity", "StopGradient", "PreventGradient", "EnsureShape", "Snapshot", "IdentityN")
def identity(importer: Importer, op: tf.Operation) -> None:
    for source, target in zip(op.inputs, op.outputs, strict=True):
        importer.values[target.name] = importer.get(source)


@imports("Const")
def constant(importer: Importer, op: tf.Operation) -> None:
    importer.set(op.outputs[0], Constant(tf.make_ndarray(op.get_attr("value"))))


@imports("ReadVariableOp")
def read_variable(importer: Importer, op: tf.Operation) -> None:
    importer.values[op.outputs[0].name] = importer.get(op.inputs[0])


@imports("ResourceGather")
def resource_gather(importer: Importer, op: tf.Operation) -> None:
    weight = importer.weight(op.inputs[0])
    assert weight is not None
    importer.values[op.inputs[0].name] = WeightValue(weight)
    importer.set(op.outputs[0], importer.node("embedding", [importer.value(op.inputs[0]), importer.value(op.inputs[1])]))
