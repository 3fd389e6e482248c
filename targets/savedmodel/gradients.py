"""The signature `score_gradients`: the loss of every token, and the gradient of their sum with respect to the embeddings, differentiated now.

token_ids, padding_mask, target_ids   [batch, sequence]
-> loss       float32 [batch, sequence]            -log of the softmax of the logits at target_ids; nothing is masked or averaged
   gradients  float32 [batch, sequence, hidden]    of sum(loss), at what the original's score() intercepts at -1
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from kexport.graphs.dims import BATCH, SEQUENCE
from kexport.graphs.ir import Graph
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import TensorSpec
from kexport.targets.savedmodel.builder import Tensor

TARGETS = TensorSpec(name=names.TARGET_IDS, dtype="int32", shape=(BATCH, SEQUENCE))


def outputs(graph: Graph) -> tuple[TensorSpec, ...]:
    """The records of what the signature gives."""
    hidden = graph.type_of(graph.outputs[names.EMBEDDINGS]).shape
    return (
        TensorSpec(name=names.LOSS, dtype="float32", shape=(BATCH, SEQUENCE)),
        TensorSpec(name=names.GRADIENTS, dtype="float32", shape=hidden),
    )


def differentiated(rendered: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """Loss and gradients from the graph's logits and embeddings, inside the function that is being traced."""
    logits = rendered[names.LOGITS]
    flat, labels = tf.reshape(logits, [-1, logits.shape[-1]]), tf.reshape(targets, [-1])
    loss, _ = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=flat, labels=labels)
    loss = tf.reshape(loss, tf.shape(targets))
    (gradients,) = tf.gradients(loss, rendered[names.EMBEDDINGS])
    return {names.LOSS: loss, names.GRADIENTS: gradients}
