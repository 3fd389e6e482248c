"""Gemma 3 with a vision tower: how it runs images, and the mask of what the tokens of an image see of each other in ops that the graph has.

Called as a function it wants images. Scores are of texts without any: its decoder over the texts alone, which is what it makes of a prompt that names none.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops
from keras_hub.src.models.gemma3.gemma3_decoder_block import Gemma3DecoderBlock
from kexport.graphs.capture.images import ImageFamily, image_family
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.semantics import Semantics, semantics
from kexport.graphs.capture.trace import Trace, is_symbolic

CHANNELS = 3


@image_family("Gemma3CausalLM")
def of_gemma3(task: Any) -> ImageFamily | None:
    """None for a text model."""
    backbone = task.backbone
    tower = getattr(backbone, "vision_encoder", None)
    if tower is None:
        return None

    def prefill(token_ids: tf.Tensor, vision_mask: tf.Tensor, image_embeddings: tf.Tensor) -> tf.Tensor:
        x = tf.where(vision_mask[..., None], image_embeddings, _embedded(backbone, token_ids))
        for layer in backbone.transformer_layers:
            x = layer(x, vision_mask=vision_mask)
        return x

    def cached_forward(token_ids: tf.Tensor, cache: Any, images: tf.Tensor, vision_mask: tf.Tensor, vision_indices: tf.Tensor) -> Any:
        return task.call_with_cache(token_ids, cache, 0, img_embeddings=tower(images), vision_mask=vision_mask, vision_indices=vision_indices)

    return ImageFamily(
        image_shape=(int(tower.image_size), int(tower.image_size), CHANNELS),
        tokens=int(tower.num_vision_tokens_per_image),
        hidden_size=int(backbone.hidden_dim),
        window=int(backbone.sliding_window_size) if backbone.use_sliding_window_attention else None,
        vision=lambda pixels: tower(pixels[:, None]),
        prefill=prefill,
        cached_forward=cached_forward,
    )


@semantics("Gemma3CausalLM")
def semantics_of_gemma3(task: Any) -> Semantics:
    return Semantics() if getattr(task.backbone, "vision_encoder", None) is None else Semantics(logits=_logits_of_texts)


def _logits_of_texts(task: Any, rows: dict[str, Any]) -> tf.Tensor:
    backbone = task.backbone
    x = _embedded(backbone, rows["token_ids"])
    for layer in backbone.transformer_layers:
        x = layer(x, padding_mask=rows["padding_mask"])
    return backbone.token_embedding(backbone.layer_norm(x), reverse=True)


def _embedded(backbone: Any, token_ids: tf.Tensor) -> tf.Tensor:
    texts = backbone.token_embedding(token_ids)
    return texts * ops.cast(ops.sqrt(backbone.hidden_dim), texts.dtype)


@interceptor("gemma3_image_mask")
def install(trace: Trace, patches: Patches) -> None:
    stock = Gemma3DecoderBlock._compute_image_bidirectional_attention_mask

    def mask(self: Gemma3DecoderBlock, vision_mask: Any) -> Any:
        """bool [batch, sequence, sequence]: both tokens are an image's, with no token of text between them. Stock numbers the runs of image tokens;
        counting the tokens of text up to each says the same without a padded copy."""
        if trace.inside_marker or not is_symbolic(vision_mask):
            return stock(self, vision_mask)
        length = tf.shape(vision_mask)[1]
        not_later = tf.range(length)[None] <= tf.range(length)[:, None]
        is_text = tf.logical_not(vision_mask)
        texts_before = tf.reduce_sum(tf.cast(tf.logical_and(not_later[None], is_text[:, None]), "int32"), axis=-1)
        together = tf.equal(texts_before[:, None], texts_before[..., None])
        return tf.logical_and(together, tf.logical_and(vision_mask[:, None], vision_mask[..., None]))

    patches.replace(Gemma3DecoderBlock, "_compute_image_bidirectional_attention_mask", mask)
