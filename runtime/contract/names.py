"""Names that writers and readers of artifacts share: signatures and the tensors whose meaning an engine must know.

Cache tensors are not listed here: their names stand in the manifest's cache slots.
"""

from __future__ import annotations

EXTEND = "extend"  # the signature that appends tokens to the caches and returns logits: prefill and decode alike
ENCODE = "encode"  # the signature that turns an encoder prompt into cross-attention caches

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
POSITION_IDS = "position_ids"
ENCODER_ATTENTION_MASK = "encoder_attention_mask"
EXTENT = "extent"  # [batch, sequence] int32, where a token's result depends on the call that computes it: the end of KerasHub's call for this token
VALID_LENGTHS = "valid_lengths"  # [batch] int32, where padding leaves traces in states: a row's tokens from this position on are padding
BEAM_INDEX = "beam_idx"  # OpenVINO: which row of the state each row of the call continues
LOGITS = "logits"
HIDDEN_STATES = "hidden_states"  # what the head makes logits of, for every new token; only where asked for at conversion

BATCH = "batch"  # the dim name that every batched tensor starts with

# TFLite (one row, fixed lengths) and SavedModel: `prefill` (TFLite: `prefill_<n>`) and `decode` in place of `extend`
PREFILL = "prefill"
FIRST = "first"  # `first_<n>`: a prefill of an empty cache
DECODE = "decode"
GENERATE = "generate"  # SavedModel: the whole loop inside the graph
TOKENS = "tokens"
INPUT_POS = "input_pos"
LENGTHS = "lengths"
ENCODER_MASK = "encoder_mask"

# Signatures over whole rows, without caches. Their tensors keep KerasHub's names on every target: ids int32, masks bool. Where lengths are fixed, a
# signature is one record with its lengths, and in the file one signature for each of them (`of_length`).
SCORE = "score"  # token_ids, padding_mask -> logits
SCORE_LAYERS = "score_layers"  # the same -> logits and hidden_states
SCORE_GRADIENTS = "score_gradients"  # with target_ids -> loss and its gradient with respect to the embeddings
BACKBONE = "backbone"  # a backbone's own inputs -> its own outputs
EMBED = "embed"  # token_ids -> embeddings
VISION = "vision"  # pixel_values -> image_embeddings
PREFILL_IMAGES = "prefill_images"  # token_ids, vision_mask, image_embeddings -> keys.<i> and values.<i>: what the self caches hold after a prompt
IMAGES = (VISION, PREFILL_IMAGES)
FORWARD = (SCORE, SCORE_LAYERS, SCORE_GRADIENTS, BACKBONE, EMBED, *IMAGES)
TOKEN_IDS = "token_ids"
PADDING_MASK = "padding_mask"
POSITION_TABLE = "position_ids"  # of a backbone that is told where each token stands
TARGET_IDS = "target_ids"
EMBEDDINGS = "embeddings"
LOSS = "loss"
GRADIENTS = "gradients"
PIXEL_VALUES = "pixel_values"
IMAGE_EMBEDDINGS = "image_embeddings"  # of `vision` [images, tokens, hidden]; of `prefill_images` [batch, sequence, hidden]
VISION_MASK = "vision_mask"  # the tokens that are an image's
KEYS, VALUES = "keys", "values"


def of_length(signature: str, length: int) -> str:
    """What a file calls the form of a signature over whole rows that takes rows of this length."""
    return f"{signature}_{length}"
