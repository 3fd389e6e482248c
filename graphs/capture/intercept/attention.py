"""`_compute_attention` of every class that defines one -> attention.

The method's parameters are found by position (query, key, value) and by name (`...mask...`); what it does is found by probing.
A method that takes its heads in front of the length is asked with these axes exchanged, and probed like any other.
Where the probe finds no formula, or the query has another layout, the stock ops stay as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from kexport.graphs.capture.emit_attention import mark_attention
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.layers import subclasses
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.probe_attention import KEYS, AttentionCall, AttentionFacts, UnidentifiedAttention, probe_attention
from kexport.graphs.capture.slots import LENGTH_AND_HEADS_SWAPPED
from kexport.graphs.capture.trace import Trace, is_symbolic

RANK = 4
LENGTH_AXIS, HEADS_AXIS = 1, 2
MASK_RANK_WITH_HEADS = 4
ALONE = 0.9
CAUSAL_SWITCH = "use_causal_mask"  # of Keras's MultiHeadAttention


@dataclass(frozen=True, slots=True)
class Parameters:
    """The names of the stock method's parameters."""

    signature: inspect.Signature
    query: str
    key: str
    value: str
    mask: str | None

    @classmethod
    def of(cls, method: Callable[..., Any]) -> Parameters:
        """Read off a method whose first parameter is self."""
        signature = inspect.signature(method)
        names = list(signature.parameters)[1:]
        mask = next((name for name in names if "mask" in name and "causal" not in name), None)
        return cls(signature, names[0], names[1], names[2], mask)


class Method:
    """A stock method over query, key and value [batch, length, heads, dim], whatever order of these axes it has itself; `as_stock` undoes that."""

    def __init__(self, stock: Callable[..., Any], names: Parameters, *, heads_first: bool) -> None:
        self._stock, self._names, self._heads_first = stock, names, heads_first
        self._gives_tuple = self._gives_heads_first = False

    def arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The stock method's arguments, exchanged where it needs them heads first, or its own again."""
        rows = (self._names.query, self._names.key, self._names.value)
        return {name: _exchanged(value) if self._heads_first and name in rows else value for name, value in arguments.items()}

    def __call__(self, layer: keras.layers.Layer, arguments: dict[str, Any]) -> Any:
        inner = self.arguments(arguments)
        result = self._stock(layer, **inner)
        self._gives_tuple = isinstance(result, tuple)
        attended = result[0] if self._gives_tuple else result
        self._gives_heads_first = self._heads_first and attended.shape[HEADS_AXIS] != inner[self._names.query].shape[LENGTH_AXIS]
        return _exchanged(attended) if self._gives_heads_first else attended

    def as_stock(self, attended: tf.Tensor) -> Any:
        """What the stock method would have returned, given what this one did in its last call."""
        attended = _exchanged(attended) if self._gives_heads_first else attended
        return (attended, None) if self._gives_tuple else attended


def _exchanged(x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(x, LENGTH_AND_HEADS_SWAPPED)


def _heads_first(query: Any) -> bool | None:
    """Whether heads come before the length, which is the open one of the two axes; None where neither is told."""
    fixed = [query.shape[axis] is not None for axis in (LENGTH_AXIS, HEADS_AXIS)] if is_symbolic(query) and len(query.shape) == RANK else [False, False]
    return None if not any(fixed) else fixed == [True, False]


def _eager_call(method: Method, layer: keras.layers.Layer, bound: dict[str, Any], names: Parameters, mask: tf.Tensor | None = None) -> AttentionCall:
    """How to run the stock method on probe values; `mask` instead of one that hides nothing."""
    query, key, value = bound[names.query], bound[names.key], bound[names.value]
    given = bound.get(names.mask) if names.mask else None
    dtype = query.dtype

    def run(q: Any, k: Any, v: Any) -> Any:
        arguments = dict(bound)
        for name, array in ((names.query, q), (names.key, k), (names.value, v)):
            arguments[name] = tf.constant(array, dtype)
        if given is not None:
            heads_axis = [1] if len(given.shape) == MASK_RANK_WITH_HEADS else []
            arguments[str(names.mask)] = tf.ones([q.shape[0], *heads_axis, 1, KEYS], given.dtype) if mask is None else mask
        for name, argument in arguments.items():
            if is_symbolic(argument):  # the call's position: the query is the last probe key
                arguments[name] = tf.constant(KEYS - 1, argument.dtype)
        return np.asarray(tf.cast(method(layer, arguments), tf.float64))

    return AttentionCall(layer, run, int(query.shape[2]), int(key.shape[2]), int(query.shape[3]), int(value.shape[3]), dtype.name)


def _adds_its_mask(method: Method, layer: keras.layers.Layer, bound: dict[str, Any], names: Parameters) -> bool:
    """Whether a float mask is added to the logits instead of telling which keys are visible: one key of mask 1 among zeros then has a weight below 1."""
    mask = bound[str(names.mask)]
    shape = [1, 1, 1, KEYS] if len(mask.shape) == MASK_RANK_WITH_HEADS else [1, 1, KEYS]
    with tf.init_scope():
        one = tf.constant(np.eye(1, KEYS, dtype=np.float32).reshape(shape), mask.dtype)
        sizes = [int(bound[name].shape[2]) for name in (names.query, names.key, names.value)]
        query, key = np.zeros((1, 1, sizes[0], int(bound[names.query].shape[3]))), np.zeros((1, KEYS, sizes[1], int(bound[names.key].shape[3])))
        value = np.zeros((1, KEYS, sizes[2], int(bound[names.value].shape[3])))
        value[:, 0] = 1
        weight = _eager_call(method, layer, bound, names, mask=one).run(query, key, value)
    return float(weight.max()) < ALONE


def identify(trace: Trace, method: Method, layer: keras.layers.Layer, bound: dict[str, Any], names: Parameters) -> AttentionFacts:
    """What the probe finds of the stock method, called with `bound`. Where the call's start is a plain number or None (an uncached forward), a window
    goes by the start: the call is probed as if it started at the last key. What such a window does to later keys is not probed, so it is taken where
    rows are causal only.
    """
    started = {name: KEYS - 1 for name, value in bound.items() if name.endswith("index") and (value is None or isinstance(value, int))}
    if not started:
        return probe_attention(_eager_call(method, layer, bound, names))
    later = probe_attention(_eager_call(method, layer, {**bound, **started}, names))
    if later.window is not None:
        if trace.causal_rows:
            return later
        raise UnidentifiedAttention("its window goes by where the call starts")
    facts = probe_attention(_eager_call(method, layer, bound, names))
    if facts.window is not None:
        raise UnidentifiedAttention("it hides later keys")
    return facts


def _with_mask_for_causal(arguments: dict[str, Any], names: Parameters) -> dict[str, Any]:
    """`arguments` with a causal mask in place of a switch that stands for it."""
    if not arguments.get(CAUSAL_SWITCH) or names.mask is None or arguments.get(names.mask) is not None:
        return arguments
    queries, keys = (tf.range(tf.shape(arguments[name])[LENGTH_AXIS]) for name in (names.query, names.key))
    return {**arguments, names.mask: (keys[None] <= queries[:, None])[None], CAUSAL_SWITCH: False}


def _wrap(trace: Trace, stock: Callable[..., Any]) -> Callable[..., Any]:
    names = Parameters.of(stock)

    def compute_attention(self: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        bound = names.signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        arguments.pop("self")
        heads_first = _heads_first(arguments[names.query])
        if trace.inside_marker or heads_first is None or kwargs.get("return_attention_scores"):
            return stock(self, *args, **kwargs)
        method = Method(stock, names, heads_first=heads_first)
        arguments = _with_mask_for_causal(method.arguments(arguments), names)
        try:
            facts = identify(trace, method, self, arguments, names)
        except UnidentifiedAttention as why:
            trace.notes.append(f"{self.path}: attention kept as plain ops: {why}")
            return stock(self, *args, **kwargs)
        mask = arguments.get(names.mask) if names.mask else None

        def body(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, *masks: tf.Tensor) -> Any:
            inner = {**arguments, names.query: q, names.key: k, names.value: v}
            if masks:
                inner[str(names.mask)] = masks[0]
            return method(self, inner)

        added = mask is not None and mask.dtype.is_floating and len(mask.shape) == MASK_RANK_WITH_HEADS and _adds_its_mask(method, self, arguments, names)
        query, key, value = (arguments[name] for name in (names.query, names.key, names.value))
        visible, bias = (None, mask) if added else (mask, None)
        return method.as_stock(mark_attention(trace, body, query, key, value, visible, facts, layer=self.path, bias=bias))

    return compute_attention


@interceptor("attention")
def install(trace: Trace, patches: Patches) -> None:
    for cls in subclasses(keras.layers.Layer):
        known = cls.__module__.startswith("keras_hub") or cls is keras.layers.MultiHeadAttention
        user = not cls.__module__.startswith("keras.")
        if (known or user) and "_compute_attention" in cls.__dict__:
            patches.replace(cls, "_compute_attention", _wrap(trace, cls.__dict__["_compute_attention"]))
