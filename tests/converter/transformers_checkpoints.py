"""Small checkpoints in the transformers layout, one for each model type that KerasHub converts. Writing one imports Keras.

    write_checkpoint("qwen3", folder)

Which tensors a model has is asked of KerasHub's converter, which is run once with a reader that notes the names; how large each is follows from
the layout's own conventions (`_SHAPES`), not from the converter: a wrong reading of them on either side is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, HIDDEN, INNER, HEADS, KV_HEADS, HEAD, LAYERS, EXPERTS, EXPERT_INNER, POSITIONS = 96, 32, 48, 4, 2, 16, 2, 4, 24, 64
Config = dict[str, Any]
_SIZES: Config = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
}  # fmt: skip
_NARROW = {"head_dim": HIDDEN // HEADS}  # families whose heads are hidden / heads wide
_WINDOWS = {"sliding_window": 8, "use_sliding_window": False}
_SPARSE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT_INNER, "norm_topk_prob": True, "decoder_sparse_step": 1,
           "router_aux_loss_coef": 0.001, "output_router_logits": False}  # fmt: skip
_SOFTCAPS = {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": HEAD}
_LOCAL_GLOBAL = ["sliding_attention", "full_attention"]
_GEMMA_STACK = {
    "layer_types": _LOCAL_GLOBAL, "sliding_window": 8, "dropout_rate": 0.0, "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
    "hidden_activation": "gelu_pytorch_tanh", "rope_scaling": {"factor": 8.0},
}  # fmt: skip
LINEAR_KEYS, LINEAR_VALUES, LINEAR_HEAD, KERNEL = 2, 4, 8, 4  # heads of Qwen 3.5's linear attention
_HYBRID = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": LINEAR_KEYS, "linear_num_value_heads": LINEAR_VALUES,
    "linear_key_head_dim": LINEAR_HEAD, "linear_value_head_dim": LINEAR_HEAD, "linear_conv_kernel_dim": KERNEL,
    "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}  # fmt: skip


def _architecture(name: str, *parts: Config) -> Config:
    merged: Config = {"architectures": [name]}
    for part in (_SIZES, *parts):
        merged |= part
    return merged


CONFIGS: dict[str, Config] = {
    "bart": {
        "architectures": ["BartForConditionalGeneration"], "vocab_size": VOCABULARY, "num_hidden_layers": LAYERS, "encoder_layers": LAYERS,
        "decoder_layers": LAYERS, "encoder_attention_heads": HEADS, "d_model": HIDDEN, "encoder_ffn_dim": INNER, "dropout": 0.1,
        "max_position_embeddings": POSITIONS,
    },
    "gemma": _architecture("GemmaForCausalLM"),
    "gemma2": _architecture("Gemma2ForCausalLM", _SOFTCAPS, {"sliding_window": 8}),
    "gemma3_text": _architecture("Gemma3ForCausalLM", _SOFTCAPS, {"sliding_window": 8, "layer_types": _LOCAL_GLOBAL, "rope_parameters": None}),
    "gemma4_text": _architecture("Gemma4ForCausalLM", {
        "sliding_window": 8, "layer_types": _LOCAL_GLOBAL, "global_head_dim": HEAD, "hidden_size_per_layer_input": 0,
        "rope_parameters": {"full_attention": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}, "sliding_attention": {"rope_theta": 10000.0}}}),
    "gpt2": {"architectures": ["GPT2LMHeadModel"], "vocab_size": VOCABULARY, "n_layer": LAYERS, "n_head": HEADS, "n_embd": HIDDEN, "resid_pdrop": 0.1,
             "n_positions": POSITIONS},
    "gpt_oss": _architecture("GptOssForCausalLM", {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "sliding_window": 8, "intermediate_size": HIDDEN,
                                                    "rope_scaling": {"factor": 32.0}}),
    "llama": _architecture("LlamaForCausalLM", _NARROW, {"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}),
    "mistral": _architecture("MistralForCausalLM", {"sliding_window": 8}),
    "mixtral": _architecture("MixtralForCausalLM", _NARROW, {"sliding_window": 8, "num_local_experts": EXPERTS, "num_experts_per_tok": 2,
                                                             "output_router_logits": False}),
    "qwen2": _architecture("Qwen2ForCausalLM", _NARROW, _WINDOWS),
    "qwen2_moe": _architecture("Qwen2MoeForCausalLM", _NARROW, _WINDOWS, _SPARSE, {"shared_expert_intermediate_size": EXPERT_INNER}),
    "qwen3": _architecture("Qwen3ForCausalLM", _WINDOWS),
    "qwen3_moe": _architecture("Qwen3MoeForCausalLM", _WINDOWS, _SPARSE),
    "qwen3_5": _architecture("Qwen3_5ForCausalLM", _HYBRID),
    "qwen3_5_moe": _architecture("Qwen3_5MoeForCausalLM", _HYBRID, _SPARSE, {"shared_expert_intermediate_size": EXPERT_INNER}),
    "smollm3": _architecture("SmolLM3ForCausalLM", _NARROW, {
        "attention_bias": False, "attention_dropout": 0.0, "no_rope_layers": [1, 0], "layer_types": ["full_attention"] * LAYERS, "mlp_bias": False,
        "max_position_embeddings": POSITIONS}),
    "t5gemma": {"architectures": ["T5GemmaForConditionalGeneration"], "tie_word_embeddings": True, "encoder": {**_SIZES, **_SOFTCAPS, **_GEMMA_STACK},
                "decoder": {**_SIZES, **_SOFTCAPS, **_GEMMA_STACK}},
    "t5gemma2": {"architectures": ["T5Gemma2ForConditionalGeneration"], "eoi_token_index": 5, "encoder": {"text_config": {**_SIZES, **_SOFTCAPS, **_GEMMA_STACK}},
                 "decoder": {**_SIZES, **_SOFTCAPS, **_GEMMA_STACK}},
}  # fmt: skip


def _queries(config: Config) -> int:
    return int(config["num_attention_heads"]) * int(config["head_dim"])


def _gated_queries(config: Config) -> int:
    """Qwen 3.5's queries bring a gate along."""
    return _queries(config) * (2 if "linear_num_key_heads" in config else 1)


def _keys(config: Config) -> int:
    return int(config["num_key_value_heads"]) * int(config["head_dim"])


# The end of a tensor's name -> its shape in the layout ([out, in] for products); the first that fits.
Shape = Callable[[Config], tuple[int, ...]]
_SHAPES: dict[str, Shape] = {
    r"wte\.weight": lambda c: (VOCABULARY, HIDDEN),
    r"wpe\.weight": lambda c: (POSITIONS, HIDDEN),
    r"c_attn\.weight": lambda c: (HIDDEN, 3 * HIDDEN),  # GPT-2 keeps its products [in, out]
    r"c_attn\.bias": lambda c: (3 * HIDDEN,),
    r"c_fc\.weight": lambda c: (HIDDEN, 4 * HIDDEN),
    r"c_fc\.bias": lambda c: (4 * HIDDEN,),
    r"mlp\.c_proj\.weight": lambda c: (4 * HIDDEN, HIDDEN),
    r"c_proj\.weight": lambda c: (HIDDEN, HIDDEN),
    r"embed_positions\.weight": lambda c: (POSITIONS + 2, HIDDEN),  # Bart's table begins two rows early
    r"(embed_tokens|shared|lm_head)\.weight": lambda c: (VOCABULARY, HIDDEN),
    r"experts\.gate_up_proj_blocks": lambda c: (EXPERTS, 2 * HIDDEN, 1, 16),  # GPT-OSS: blocks of 32 numbers of 4 bits
    r"experts\.gate_up_proj_scales": lambda c: (EXPERTS, 2 * HIDDEN, 1),
    r"experts\.gate_up_proj_bias": lambda c: (EXPERTS, 2 * HIDDEN),
    r"experts\.down_proj_blocks": lambda c: (EXPERTS, HIDDEN, 1, 16),
    r"experts\.down_proj_scales": lambda c: (EXPERTS, HIDDEN, 1),
    r"experts\.down_proj_bias": lambda c: (EXPERTS, HIDDEN),
    r"router\.bias": lambda c: (EXPERTS,),
    r"(mlp\.gate|block_sparse_moe\.gate|router)\.weight": lambda c: (EXPERTS, HIDDEN),
    r"experts\.\d+\.(w1|w3)\.weight": lambda c: (INNER, HIDDEN),
    r"experts\.\d+\.w2\.weight": lambda c: (HIDDEN, INNER),
    r"(experts\.\d+|shared_expert)\.(gate|up)_proj\.weight": lambda c: (EXPERT_INNER, HIDDEN),
    r"(experts\.\d+|shared_expert)\.down_proj\.weight": lambda c: (HIDDEN, EXPERT_INNER),
    r"shared_expert_gate\.weight": lambda c: (1, HIDDEN),
    r"(gate|up)_proj\.weight": lambda c: (INNER, HIDDEN),
    r"down_proj\.weight": lambda c: (HIDDEN, INNER),
    r"q_proj\.weight": lambda c: (_gated_queries(c), HIDDEN),
    r"[kv]_proj\.weight": lambda c: (_keys(c), HIDDEN),
    r"o_proj\.weight": lambda c: (HIDDEN, _queries(c)),
    r"q_proj\.bias": lambda c: (_queries(c),),
    r"[kv]_proj\.bias": lambda c: (_keys(c),),
    r"[qk]_norm\.weight": lambda c: (int(c["head_dim"]),),
    r"sinks": lambda c: (HEADS,),
    r"in_proj_qkv\.weight": lambda c: ((2 * LINEAR_KEYS + LINEAR_VALUES) * LINEAR_HEAD, HIDDEN),
    r"in_proj_z\.weight": lambda c: (LINEAR_VALUES * LINEAR_HEAD, HIDDEN),
    r"in_proj_[ab]\.weight": lambda c: (LINEAR_VALUES, HIDDEN),
    r"conv1d\.weight": lambda c: ((2 * LINEAR_KEYS + LINEAR_VALUES) * LINEAR_HEAD, 1, KERNEL),
    r"(dt_bias|A_log)": lambda c: (LINEAR_VALUES,),
    r"linear_attn\.norm\.weight": lambda c: (LINEAR_HEAD,),
    r"linear_attn\.out_proj\.weight": lambda c: (HIDDEN, LINEAR_VALUES * LINEAR_HEAD),
    r"experts\.gate_up_proj": lambda c: (EXPERTS, 2 * EXPERT_INNER, HIDDEN),
    r"experts\.down_proj": lambda c: (EXPERTS, HIDDEN, EXPERT_INNER),
    r"layer_scalar": lambda c: (1,),
    r"fc1\.weight": lambda c: (INNER, HIDDEN),
    r"fc1\.bias": lambda c: (INNER,),
    r"fc2\.weight": lambda c: (HIDDEN, INNER),
    r"out_proj\.weight": lambda c: (HIDDEN, HIDDEN),
    r"(norm|layernorm|ln_1|ln_2|ln_f|layernorm_embedding|layer_norm)\.(weight|bias)": lambda c: (HIDDEN,),
    r"(o_proj|out_proj|fc2|c_proj)\.bias": lambda c: (HIDDEN,),
}
_BYTES = r"_(blocks|scales)$"  # GPT-OSS's packed numbers and their exponents


class _NamesOnly:
    """Stands in for KerasHub's reader of tensors: gives zeros and notes what was asked for."""

    safetensor_config = None  # a single file

    def __init__(self, config: Config) -> None:
        self._config = config
        self.shapes: dict[str, tuple[int, ...]] = {}

    def get_tensor(self, hf_weight_key: str) -> Any:
        shape = next((shape for end, shape in _SHAPES.items() if re.search(rf"(^|[._]){end}$", hf_weight_key)), None)
        assert shape is not None, f"what shape has {hf_weight_key}?"
        self.shapes[hf_weight_key] = shape(self._config)
        return np.zeros(self.shapes[hf_weight_key], np.uint8 if re.search(_BYTES, hf_weight_key) else np.float32)

    def port_weight(self, keras_variable: Any, hf_weight_key: str, hook_fn: Any = None) -> None:
        tensor = self.get_tensor(hf_weight_key)
        keras_variable.assign(hook_fn(tensor, list(keras_variable.shape)) if hook_fn else tensor)


def write_checkpoint(model_type: str, folder: Path, dtype: str = "float32", spread: float = 0.3) -> None:
    """config.json and model.safetensors with random numbers in `dtype` (packed ones stay bytes)."""
    from keras_hub.src.models.backbone import Backbone
    from keras_hub.src.utils.preset_utils import get_preset_loader
    from kexport.runtime.contract.dtypes import numpy_dtype
    from safetensors.numpy import save_file

    config: Config = {"model_type": model_type, **CONFIGS[model_type]}
    if model_type == "bart":
        config |= {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HIDDEN // HEADS}  # for _SHAPES
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    names = _NamesOnly({**_SIZES, **config})
    loader = get_preset_loader(str(folder))
    loader.converter.convert_weights(Backbone.from_preset(str(folder), load_weights=False), names, config)
    generator = np.random.default_rng(len(model_type))
    save_file({name: _numbers(generator, name, shape, spread, numpy_dtype(dtype)) for name, shape in names.shapes.items()}, folder / "model.safetensors")


def _numbers(generator: np.random.Generator, name: str, shape: tuple[int, ...], spread: float, dtype: Any) -> Any:
    if name.endswith("_scales"):
        return np.full(shape, 125, np.uint8)  # 2 ** (125 - 127)
    if name.endswith("_blocks"):
        return generator.integers(0, 256, shape).astype(np.uint8)
    draw = generator.normal(0, spread, shape)
    return (draw + (1 if re.search(r"(norm|ln_.)\.weight$", name) else 0)).astype(dtype)
