"""Models that a user wrote, for the tests of docs/extending.md: nothing in kexport knows them. Importing this file imports Keras.

    LayersCausalLM      a decoder of keras_hub.layers, its positions learned
    OwnCausalLM         its own decoder layer with rotary positions; attention in a method of its own, or written out inside `call`
"""

from __future__ import annotations

from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

VOCABULARY, LAYERS, HEADS, HIDDEN, INNER, POSITIONS = 96, 2, 4, 32, 64, 64


class Cached(keras_hub.models.CausalLM):
    """What both have in common: KerasHub's generation loop over a stacked cache."""

    def generate_step(self, inputs: Any, stop_token_ids: Any = None) -> Any:
        token_ids, padding_mask = inputs["token_ids"], inputs["padding_mask"]
        hidden_states, cache = self._build_cache(token_ids)
        index = ops.min(ops.sum(ops.cast(padding_mask, "int32"), axis=-1))

        def next(prompt: Any, cache: Any, index: Any) -> Any:
            place = index - 1
            prompt = ops.slice(prompt, [0, place], [ops.shape(prompt)[0], 1])
            logits, hidden, cache = self.call_with_cache(prompt, cache, place)
            return ops.squeeze(logits, axis=1), ops.squeeze(hidden, axis=1), cache

        token_ids = self.sampler(
            next=next, prompt=token_ids, cache=cache, index=index, mask=padding_mask, stop_token_ids=stop_token_ids, hidden_states=hidden_states, model=self
        )
        return {"token_ids": token_ids, "padding_mask": ops.ones_like(token_ids, dtype="bool")}

    def _build_cache(self, token_ids: Any) -> Any:
        batch, length = ops.shape(token_ids)[0], ops.shape(token_ids)[1]
        cache = ops.zeros([batch, LAYERS, 2, length, HEADS, HIDDEN // HEADS], dtype=self.compute_dtype)
        _, hidden_states, cache = self.call_with_cache(token_ids, cache, 0)
        return hidden_states, cache


class LayersBackbone(keras_hub.models.Backbone):
    """Embedding and decoder layers of the library, called as functions."""

    def __init__(self, dtype: Any = None, **kwargs: Any) -> None:
        self.embeddings = keras_hub.layers.TokenAndPositionEmbedding(VOCABULARY, POSITIONS, HIDDEN, dtype=dtype, name="embeddings")
        self.decoders = [
            keras_hub.layers.TransformerDecoder(INNER, HEADS, normalize_first=True, activation="gelu", dtype=dtype, name=f"decoder_{index}")
            for index in range(LAYERS)
        ]
        self.final_norm = keras.layers.LayerNormalization(dtype=dtype, name="final_norm")
        token_ids = keras.Input(shape=(None,), dtype="int32", name="token_ids")
        padding_mask = keras.Input(shape=(None,), dtype="int32", name="padding_mask")
        x = self.embeddings(token_ids)
        for decoder in self.decoders:
            x = decoder(x, decoder_padding_mask=padding_mask)
        super().__init__(inputs={"token_ids": token_ids, "padding_mask": padding_mask}, outputs=self.final_norm(x), dtype=dtype, **kwargs)

    @property
    def token_embedding(self) -> Any:
        return self.embeddings.token_embedding

    @token_embedding.setter
    def token_embedding(self, value: Any) -> None:
        """KerasHub's backbones set it."""


class LayersCausalLM(Cached):
    """See the module."""

    def __init__(self, backbone: Any, preprocessor: Any = None, **kwargs: Any) -> None:
        self.backbone, self.preprocessor = backbone, preprocessor
        inputs = backbone.input
        super().__init__(inputs=inputs, outputs=backbone.embeddings.token_embedding(backbone(inputs), reverse=True), **kwargs)

    def call_with_cache(self, token_ids: Any, cache: Any, cache_update_index: Any) -> Any:
        x = self.backbone.embeddings(token_ids, start_index=cache_update_index)
        caches = []
        for index, decoder in enumerate(self.backbone.decoders):
            x, updated = decoder(x, self_attention_cache=cache[:, index, ...], self_attention_cache_update_index=cache_update_index)
            caches.append(updated)
        hidden_states = self.backbone.final_norm(x)
        return self.backbone.embeddings.token_embedding(hidden_states, reverse=True), hidden_states, ops.stack(caches, axis=1)


class OwnAttention(keras.layers.Layer):
    """Queries, keys and values with rotary positions. `inlined`: the products are written out in `call`, where nothing tells that they are attention."""

    def __init__(self, *, inlined: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inlined = inlined
        size = (HEADS, HIDDEN // HEADS)
        self.projections = [keras.layers.EinsumDense("btd,dhk->bthk", (None, *size), name=name, dtype=self.dtype_policy) for name in ("q", "k", "v")]
        self.joined = keras.layers.EinsumDense("bthk,hkd->btd", (None, HIDDEN), name="out", dtype=self.dtype_policy)
        self.rotary = keras_hub.layers.RotaryEmbedding(dtype=self.dtype_policy)

    def build(self, shape: Any) -> None:
        for projection in self.projections:
            projection.build(shape)
        self.joined.build((None, None, HEADS, HIDDEN // HEADS))

    def call(self, x: Any, cache: Any = None, cache_update_index: Any = 0) -> Any:
        query, key, value = (projection(x) for projection in self.projections)
        query, key = self.rotary(query, start_index=cache_update_index), self.rotary(key, start_index=cache_update_index)
        if cache is not None:
            key = ops.slice_update(cache[:, 0, ...], [0, cache_update_index, 0, 0], key)
            value = ops.slice_update(cache[:, 1, ...], [0, cache_update_index, 0, 0], value)
            cache = ops.stack((key, value), axis=1)
        rows, columns = ops.arange(ops.shape(query)[1]) + cache_update_index, ops.arange(ops.shape(key)[1])
        mask = (columns[None, :] <= rows[:, None])[None]
        attended = self.attend(query, key, value, mask) if self.inlined else self._compute_attention(query, key, value, mask)
        return self.joined(attended) if cache is None else (self.joined(attended), cache)

    def attend(self, query: Any, key: Any, value: Any, mask: Any) -> Any:
        """Scaled dot products, hidden where the mask says so."""
        logits = ops.einsum("bthk,bshk->bhts", query, key) * 0.3
        weights = ops.softmax(ops.where(mask[:, None], logits, -1e9))
        return ops.einsum("bhts,bshk->bthk", weights, value)

    def _compute_attention(self, query: Any, key: Any, value: Any, attention_mask: Any) -> Any:
        return self.attend(query, key, value, attention_mask)


class OwnBackbone(keras_hub.models.Backbone):
    """A decoder of these layers."""

    def __init__(self, *, inlined: bool = False, dtype: Any = None, **kwargs: Any) -> None:
        self.token_embedding = keras_hub.layers.ReversibleEmbedding(VOCABULARY, HIDDEN, tie_weights=False, dtype=dtype, name="token_embedding")
        self.norms = [keras.layers.RMSNormalization(dtype=dtype, name=f"norm_{index}") for index in range(LAYERS + 1)]
        self.attentions = [OwnAttention(inlined=inlined, dtype=dtype, name=f"attention_{index}") for index in range(LAYERS)]
        self.inner = [keras.layers.Dense(HIDDEN, activation="silu", dtype=dtype, name=f"inner_{index}") for index in range(LAYERS)]
        token_ids = keras.Input(shape=(None,), dtype="int32", name="token_ids")
        padding_mask = keras.Input(shape=(None,), dtype="int32", name="padding_mask")
        x = self.token_embedding(token_ids)
        for norm, attention, inner in zip(self.norms, self.attentions, self.inner, strict=False):
            x = x + attention(norm(x))
            x = x + inner(x)
        super().__init__(inputs={"token_ids": token_ids, "padding_mask": padding_mask}, outputs=self.norms[-1](x), dtype=dtype, **kwargs)


class OwnCausalLM(Cached):
    """See the module."""

    def __init__(self, backbone: Any, preprocessor: Any = None, **kwargs: Any) -> None:
        self.backbone, self.preprocessor = backbone, preprocessor
        inputs = backbone.input
        super().__init__(inputs=inputs, outputs=backbone.token_embedding(backbone(inputs), reverse=True), **kwargs)

    def call_with_cache(self, token_ids: Any, cache: Any, cache_update_index: Any) -> Any:
        x, caches = self.backbone.token_embedding(token_ids), []
        layers = zip(self.backbone.norms, self.backbone.attentions, self.backbone.inner, strict=False)
        for index, (norm, attention, inner) in enumerate(layers):
            attended, updated = attention(norm(x), cache=cache[:, index, ...], cache_update_index=cache_update_index)
            caches.append(updated)
            x = x + attended
            x = x + inner(x)
        hidden_states = self.backbone.norms[-1](x)
        return self.backbone.token_embedding(hidden_states, reverse=True), hidden_states, ops.stack(caches, axis=1)


DRAWS = {"layers": (2, 0.8), "own": (5, 0.8), "inlined": (5, 0.8)}  # seed and spread with which a model does not repeat itself


def build(kind: str) -> Any:
    """`layers`, `own` or `inlined`: the task with random numbers in its matrices."""
    seed, spread = DRAWS[kind]
    keras.utils.set_random_seed(0)
    task = LayersCausalLM(LayersBackbone()) if kind == "layers" else OwnCausalLM(OwnBackbone(inlined=kind == "inlined"))
    generator = np.random.default_rng(seed)
    for variable in task.variables:
        if len(variable.shape) > 1 and str(variable.dtype).startswith("float"):
            variable.assign(generator.normal(0, spread, variable.shape).astype(np.float32))
    return task
