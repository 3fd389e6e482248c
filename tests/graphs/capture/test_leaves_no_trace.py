"""Capturing changes nothing: not the model, not Keras, not TensorFlow, whether it ends well or in an error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.seed_models import MODELS, SeedModel, load_golden

pytestmark = pytest.mark.slow
PACKAGES = ("keras", "keras_hub")


class Interrupted(Exception):
    """Thrown from inside stock code."""


def world() -> dict[tuple[str, str], int]:
    """Identity of every attribute of every module and class of Keras and KerasHub, and of TensorFlow's functions that are patched."""
    found: dict[tuple[str, str], int] = {}
    for name, module in list(sys.modules.items()):
        if module is None or name.split(".")[0] not in PACKAGES:
            continue
        for key, value in list(vars(module).items()):
            found[name, key] = id(value)
            if isinstance(value, type):
                found.update(
                    {(f"{name}.{key}", attribute): id(inner) for attribute, inner in list(vars(value).items()) if attribute not in MOVING}
                )
    return found


# Python's own bookkeeping on classes, made on demand.
MOVING = frozenset({"__doc__", "__dict__", "__weakref__", "__annotations__", "_abc_impl", "__subclasshook__", "__abstractmethods__"})


def state(task: Any) -> dict[str, Any]:
    """What a user could see of a task: numbers, random states, attributes, trainable flags."""
    from kexport.graphs.capture.names import parameter_name

    attributes = {key: id(value) for key, value in vars(task).items()}
    attributes |= {f"backbone.{key}": id(value) for key, value in vars(task.backbone).items()}
    for layer in task.backbone._flatten_layers():
        attributes |= {f"{layer.path}.{key}": id(value) for key, value in vars(layer).items()}
    numbers = {parameter_name(variable): np.asarray(variable.value).tobytes() for variable in task.variables}
    return {"attributes": attributes, "numbers": numbers, "values": {v.path: id(v._value) for v in task.variables}}


@pytest.mark.parametrize("name", ["mistral", "gemma2", "bloom", "bart"])
def test_a_live_model_is_left_as_found(name: str, stock: Any) -> None:
    """Weights, random states, sampler, compiled function; and it generates afterwards what it did before."""
    from kexport.graphs.capture import capture

    model = MODELS[name]
    task = stock.build(model)
    tokens, _ = stock.generate(task, model, None)
    sampler, function = task.sampler, task.generate_function
    before, outside = state(task), world()
    capture(task)
    after = state(task)
    assert after["numbers"] == before["numbers"] and after["values"] == before["values"]
    changed = {
        key
        for key in before["attributes"].keys() | after["attributes"].keys()
        if before["attributes"].get(key) != after["attributes"].get(key)
    }
    assert changed == set()
    assert task.sampler is sampler and task.generate_function is function
    assert different(outside, world()) == set()
    again = task.generate(stock.inputs_of(model), stop_token_ids=None)
    assert np.array_equal(np.asarray(again["decoder_token_ids" if name == "bart" else "token_ids"]), tokens)
    assert tokens.tolist() == load_golden(name).tokens


def different(before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]) -> set[tuple[str, str]]:
    """What is another object now, or gone; modules imported meanwhile do not count."""
    modules = {place for place, _ in before}
    return {key for key in before.keys() | after.keys() if key[0] in modules and before.get(key) != after.get(key)}


def interrupt_in_last_layer(task: Any, model: SeedModel) -> Any:
    """Makes the last layer's call fail; gives what undoes it."""
    backbone = task.backbone
    layer = (backbone.decoder_transformer_layers if model.family == "bart" else backbone.transformer_layers)[-1]

    def call(*args: Any, **kwargs: Any) -> Any:
        raise Interrupted

    object.__setattr__(layer, "call", call)
    return lambda: object.__delattr__(layer, "call")


@pytest.mark.parametrize("name", ["mistral", "gemma2", "bloom", "bart"])
def test_an_error_in_the_middle_of_the_trace_restores_everything(name: str, stock: Any) -> None:
    """Stock code fails in its last layer, after all others were traced and probed; a second capture works."""
    from kexport.graphs.capture import capture
    from kexport.graphs.serialize import dumps

    task = stock.build(MODELS[name])
    capture(task)  # what Keras caches at a first trace is no trace of ours
    before, outside = state(task), world()
    undo = interrupt_in_last_layer(task, MODELS[name])
    with pytest.raises(Interrupted):
        capture(task)
    undo()
    after = state(task)
    assert after["numbers"] == before["numbers"] and after["attributes"] == before["attributes"]
    assert different(outside, world()) == set()
    assert {key: dumps(graph) for key, graph in capture(task).graphs.items()} == {
        key: dumps(graph) for key, graph in load_golden(name).graphs.items()
    }


def test_the_snapshot_sees_a_patch(stock: Any) -> None:
    """Otherwise equal snapshots would prove nothing."""
    from kexport.graphs.capture.intercept import intercepting
    from kexport.graphs.capture.trace import Trace

    outside = world()
    with intercepting(Trace()):
        patched = different(outside, world())
    assert len(patched) > 10 and different(outside, world()) == set()


@pytest.mark.parametrize("which", ["abstract_weights", "recording"])
def test_other_contexts_restore_after_an_error(which: str, stock: Any) -> None:
    """Building abstractly and recording loaders patch Keras, too."""
    from kexport.graphs.capture.abstract import abstract_weights
    from kexport.graphs.capture.recorded import recording

    with recording():
        pass  # imports what it patches
    outside = world()
    context: Callable[[], Any] = {"abstract_weights": abstract_weights, "recording": recording}[which]
    with pytest.raises(Interrupted), context():
        assert different(outside, world())
        raise Interrupted
    assert different(outside, world()) == set()


def test_streaming_ends_with_its_block(stock: Any) -> None:
    """After an error in it an abstract weight raises again when it is read."""
    from kexport.graphs.capture.abstract import abstract_weights, streaming
    from kexport.graphs.capture.names import parameter_name
    from kexport.runtime.contract.errors import InternalError

    model = MODELS["mistral"]
    with abstract_weights(smallest_matrix=0):
        task = stock.bare(model)
    with pytest.raises(Interrupted), streaming(task.variables, lambda v: model.number_array(parameter_name(v), tuple(v.shape))):
        table = task.backbone.token_embedding.embeddings
        assert np.array_equal(np.asarray(table.value.read_value()), model.number_array(parameter_name(table), tuple(table.shape)))
        raise Interrupted
    with pytest.raises(InternalError, match="KX911"):
        np.asarray(task.backbone.token_embedding.embeddings.value)


def test_a_streamed_model_is_the_original(stock: Any, task_of: Callable[[str], Any]) -> None:
    """Stock code on abstract weights, each read when needed, gives the original's logits."""
    from kexport.graphs.capture.abstract import abstract_weights, streaming
    from kexport.graphs.capture.names import parameter_name

    model = MODELS["gemma2"]
    ids = np.array(load_golden("gemma2").tokens)[:, :12]
    with abstract_weights(smallest_matrix=0):
        task = stock.bare(model)
    with streaming(task.variables, lambda v: model.number_array(parameter_name(v), tuple(v.shape))):
        streamed = stock.logits_of(task, model, ids)
    np.testing.assert_array_equal(streamed, stock.logits_of(task_of("gemma2"), model, ids))
