"""Capture an uncached forward: the stock model called on whole rows, as `model(inputs)` does, traced once with dynamic batch and length.

    score             token_ids, padding_mask -> logits [batch, sequence, vocabulary]
    score_layers      the same -> logits, hidden_states [layers + 1, batch, sequence, hidden]: the embeddings, then each layer's output
    score_gradients   the same -> logits, embeddings: a target differentiates a loss over the former with respect to the latter
    backbone          the backbone's own inputs -> its own outputs by name; one without a name is `sequence_output`
    embed             token_ids -> embeddings [batch, sequence, hidden]

Ids are int32 and masks bool, [batch, sequence]; an encoder's (`encoder_...`) are [batch, encoder_sequence]. The graphs keep no state. They are not
derived from the cached forward: stock code may do something else there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from kexport.graphs.capture.causal import finish
from kexport.graphs.capture.importing import import_function
from kexport.graphs.capture.intercept import intercepting
from kexport.graphs.capture.lora import without_lora
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.semantics import semantics_of
from kexport.graphs.capture.trace import Trace
from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, SEQUENCE
from kexport.graphs.ir import Graph
from kexport.graphs.ops import attribute
from kexport.graphs.ops.attention import MASK
from kexport.graphs.passes.classify_masks import is_causal
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InternalError, UnsupportedError

SEQUENCE_OUTPUT = "sequence_output"
MASK_SUFFIX = "padding_mask"
LAYERS = ("transformer_layers", "rwkv_layers")  # where KerasHub's backbones keep them
ENCODER_PREFIX = "encoder_"
TABLE_RANK = 2
_OF_TASKS = (names.SCORE, names.SCORE_LAYERS, names.SCORE_GRADIENTS)  # the others are of backbones, too

Tensors = dict[str, tf.Tensor]
Body = Callable[[Tensors], Tensors]


def capture_forward(model: Any, name: str, *, without: frozenset[str] = frozenset()) -> tuple[Graph, list[str]]:
    """Capture the signature `name` of a keras_hub task (`score`, `score_layers`, `embed`) or backbone (`backbone`, `embed`).

    Returns the cleaned graph, and notes on layers that stayed plain ops.

    Raises:
        UnsupportedError: KX380, inputs that are no tables of ids or masks; KX381, no signature of this name can be had of the model;
            KX201, an op that the graph has no form for.
    """
    if name not in _BODIES:
        raise InternalError("KX909", f"there is no forward signature `{name}`")
    inputs = {names.TOKEN_IDS: "int32"} if name == names.EMBED else _score_inputs(model) if name in _OF_TASKS else forward_inputs(model)
    return _trace(model, name, inputs, _BODIES[name](model), without)


def run_stock(model: Any, name: str, tensors: Tensors) -> Tensors:
    """What the stock model gives for signature `name`, run eagerly: the numbers that the captured graph stands for. For `score_gradients` the loss
    of each token and the gradient of their sum, as an artifact gives them."""
    if name != names.SCORE_GRADIENTS:
        return _BODIES[name](model)(tensors)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        states, logits = _intercepted(model, tensors, tape.watch)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tensors[names.TARGET_IDS], logits=logits)
    return {names.LOSS: loss, names.GRADIENTS: tape.gradient(loss, states[0])}


def forward_inputs(model: Any) -> dict[str, str]:
    """The names of the model's inputs, each with its dtype in the graph: int32 for ids, bool for padding masks.

    Raises:
        UnsupportedError: KX380, the model takes something else than tables [batch, length] of whole numbers.
    """
    declared = model.input if isinstance(model.input, dict) else {tensor.name: tensor for tensor in tf.nest.flatten(model.input)}
    for name, tensor in declared.items():
        whole = keras.backend.standardize_dtype(tensor.dtype).startswith(("int", "uint", "bool"))
        if len(tensor.shape) != TABLE_RANK or not whole:
            described = f"{tensor.dtype}{list(tensor.shape)}"
            raise UnsupportedError("KX380", f"{type(model).__name__} takes `{name}` as {described}, which is no table of token ids or a mask")
    return {name: "bool" if name.endswith(MASK_SUFFIX) else "int32" for name in declared}


def _score_inputs(task: Any) -> dict[str, str]:
    """The same of a task's scores: ids and their mask, whatever else the task takes (images, where a declaration scores texts without any). Raises as `forward_inputs`."""
    if semantics_of(task).logits is None:
        forward_inputs(task)
    return {names.TOKEN_IDS: "int32", names.PADDING_MASK: "bool"}


def _trace(model: Any, name: str, inputs: dict[str, str], body: Body, without: frozenset[str], *, causal_rows: bool = True) -> tuple[Graph, list[str]]:
    """Windows are taken from the assumption that rows are causal, which is then held against the masks; else once more without it."""
    trace, graph = Trace(causal_rows=causal_rows), Graph(name)
    for tensor, dtype in inputs.items():
        graph.add_input(tensor, dtype, (BATCH, ENCODER_SEQUENCE if tensor.startswith(ENCODER_PREFIX) else SEQUENCE))

    def stock(*tensors: tf.Tensor) -> Tensors:
        return body(dict(zip(inputs, tensors, strict=True)))

    specs = [tf.TensorSpec([None, None], dtype, name=tensor) for tensor, dtype in inputs.items()]
    with without_lora(model), intercepting(trace, without=without):
        function = tf.function(stock, autograph=False).get_concrete_function(*specs)
    kept = list(trace.notes)
    import_function(graph, trace, function, dict(function.structured_outputs), model.variables)
    finish(graph, trace)
    windowed = [node for node in graph.of_op("attention") if attribute(node, "window")]
    if any(not node.input(MASK) or not is_causal(graph, node.input(MASK)) for node in windowed):
        return _trace(model, name, inputs, body, without, causal_rows=False)
    return graph, kept  # masks over whole rows are tensors here by nature: that is no note


# ---- what each signature runs


def _score(task: Any) -> Body:
    return lambda tensors: {names.LOGITS: _logits(task, tensors)}


def _logits(task: Any, tensors: Tensors) -> tf.Tensor:
    declared = semantics_of(task).logits
    return call(task, tensors) if declared is None else declared(task, _texts(tensors))


def call(task: Any, tensors: Tensors) -> tf.Tensor:
    """What the task called as a function gives for rows of ids and their mask."""
    return task(whole_rows(task, tensors))


def _texts(tensors: Tensors) -> Tensors:
    return {name: tf.convert_to_tensor(tensors[name]) for name in (names.TOKEN_IDS, names.PADDING_MASK)}


def whole_rows(task: Any, tensors: Tensors) -> Tensors:
    """The task's inputs for rows of ids and their mask; a task that wants to be told where tokens stand is told 0, 1, 2, ..."""
    rows = _texts(tensors)
    ids = rows[names.TOKEN_IDS]
    if names.POSITION_TABLE in forward_inputs(task):
        rows[names.POSITION_TABLE] = tf.broadcast_to(tf.range(tf.shape(ids)[1])[None], tf.shape(ids))
    return rows


def _score_layers(task: Any) -> Body:
    def run(tensors: Tensors) -> Tensors:
        states, logits = _intercepted(task, tensors)
        return {names.LOGITS: logits, names.HIDDEN_STATES: tf.stack(states)}

    return run


def _score_gradients(task: Any) -> Body:
    def run(tensors: Tensors) -> Tensors:
        states, logits = _intercepted(task, tensors)
        return {names.LOGITS: logits, names.EMBEDDINGS: states[0]}

    return run


def _intercepted(task: Any, tensors: Tensors, see: Callable[[tf.Tensor], Any] = lambda x: None) -> tuple[list[tf.Tensor], tf.Tensor]:
    """The embeddings and each layer's output, and the logits. Through the family's own score() where it has one, so that what is intercepted at
    -1 is what it intercepts there. `see` is called with each of them as it goes by."""
    states: list[tf.Tensor] = []

    def keep(x: tf.Tensor, index: int) -> tf.Tensor:
        see(x)
        states.append(x)
        return x

    rows = {name: tensors[name] for name in (names.TOKEN_IDS, names.PADDING_MASK)}
    if hasattr(task, "score"):
        return states, task.score(**rows, layer_intercept_fn=keep)
    embedding, layers = _layers_of(task)
    with _outputs_of([embedding, *layers], see) as outputs:
        logits = _logits(task, tensors)
    return [outputs[id(layer)] for layer in (embedding, *layers)], logits


def _layers_of(task: Any) -> tuple[Any, Sequence[Any]]:
    """The token embedding and the decoder layers of a CausalLM.

    Raises:
        UnsupportedError: KX381, its backbone does not tell its layers.
    """
    backbone = task.backbone
    embedding = getattr(backbone, "token_embedding", None)
    layers = next(filter(None, (getattr(backbone, name, None) for name in LAYERS)), None)
    if embedding is None or not layers:
        raise UnsupportedError("KX381", f"{type(backbone).__name__} does not tell its layers, so that none can be looked into", hint="convert without score_layers")
    return embedding, layers


@contextmanager
def _outputs_of(layers: Sequence[Any], see: Callable[[tf.Tensor], Any]) -> Iterator[dict[int, tf.Tensor]]:
    """Inside, the result of each layer's first call is kept by the layer's id, and shown to `see` before anybody reads it."""
    watched, found = {id(layer) for layer in layers}, {}
    with Patches() as patches:
        stock = keras.layers.Layer.__call__

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = stock(self, *args, **kwargs)
            if id(self) in watched and id(self) not in found:
                found[id(self)] = result[0] if isinstance(result, tuple) else result
                see(found[id(self)])
            return result

        patches.replace(keras.layers.Layer, "__call__", call)
        yield found


def _backbone(backbone: Any) -> Body:
    def run(tensors: Tensors) -> Tensors:
        outputs = backbone(tensors)
        return dict(outputs) if isinstance(outputs, dict) else {SEQUENCE_OUTPUT: outputs}

    return run


def _embed(model: Any) -> Body:
    embedding = token_embedding(model)
    if embedding is None:
        raise UnsupportedError("KX381", f"{type(model).__name__} has no `token_embedding`", hint="convert without embed")
    return lambda tensors: {names.EMBEDDINGS: embedding(tensors[names.TOKEN_IDS])}


def token_embedding(model: Any) -> Any:
    """What turns token ids into vectors, None where the model does not tell. (A backbone of several towers may keep it in its text model.)"""
    backbone = getattr(model, "backbone", model)
    return getattr(backbone, "token_embedding", None) or getattr(getattr(backbone, "language_model", None), "token_embedding", None)


_BODIES: dict[str, Callable[[Any], Body]] = {
    names.SCORE: _score,
    names.SCORE_LAYERS: _score_layers,
    names.SCORE_GRADIENTS: _score_gradients,
    names.BACKBONE: _backbone,
    names.EMBED: _embed,
}
