"""Which model families convert, as data: `kexport list`, the README's table and the tests read this, nothing in the converter does.

Capture knows no families. A family stands here when it is compared token by token with KerasHub in tests/, for every
target that its line names (the seed families in odd configurations, too); another family may convert as well, and its own parity check then says whether it is right.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """One line of the support table.

    `classes`: the KerasHub task classes. `targets`: those that the tests prove. `features`: what is special about it; of the seed families the
    tests switch these off one by one, to see the tokens change.
    """

    name: str
    classes: tuple[str, ...]
    task: str
    targets: tuple[str, ...]
    features: tuple[str, ...]


EVERYWHERE = ("onnx", "openvino", "savedmodel", "tflite")


def _decoder(name: str, prefix: str, *features: str) -> Family:
    return Family(name=name, classes=(f"{prefix}CausalLM",), task="causal-lm", targets=EVERYWHERE, features=features)


def _seq2seq(name: str, prefix: str, *features: str) -> Family:
    return Family(name=name, classes=(f"{prefix}Seq2SeqLM",), task="seq2seq-lm", targets=EVERYWHERE, features=features)


FAMILIES = (
    _seq2seq("bart", "Bart", "cross cache", "learned positions"),
    _decoder("bloom", "Bloom", "alibi", "tied head"),
    _decoder("falcon", "Falcon", "alibi"),
    _decoder("gemma", "Gemma", "rotary", "1 + w norms", "head grouping"),
    _decoder("gemma2", "Gemma", "softcap", "local windows", "query scale"),
    _decoder("gemma3", "Gemma3", "local and global layers", "norms of queries and keys", "images"),
    _decoder("gemma3n", "Gemma3n", "alternating updates", "shared caches", "inputs per layer"),
    _decoder("gemma4", "Gemma4", "heads of two sizes", "shared caches", "inputs per layer", "mixture of experts"),
    _decoder("gpt2", "GPT2", "learned positions"),
    _decoder("gpt_neo_x", "GPTNeoX", "partial rotary", "told where the original's calls end"),
    _decoder("gpt_oss", "GptOss", "sinks", "mixture of experts", "local windows"),
    _decoder("llama", "Llama", "rotary", "head grouping"),
    _decoder("llama3", "Llama3", "rotary with adjusted frequencies"),
    _decoder("mistral", "Mistral", "rotary", "sliding window", "head grouping"),
    _decoder("mixtral", "Mixtral", "mixture of experts", "sliding window"),
    _decoder("opt", "OPT", "learned positions"),
    _decoder("phi3", "Phi3", "rotary", "long rotary"),
    _decoder("qwen", "Qwen", "biases of queries, keys and values", "local windows"),
    _decoder("qwen3", "Qwen3", "norms of queries and keys"),
    _decoder("qwen3_5", "Qwen3_5", "states and caches", "gated delta rule", "gated attention"),
    _decoder("qwen3_5_moe", "Qwen3_5Moe", "states and caches", "gated delta rule", "mixture of experts"),
    _decoder("qwen3_moe", "Qwen3Moe", "mixture of experts"),
    _decoder("qwen_moe", "QwenMoe", "mixture of experts", "shared expert"),
    _decoder("rwkv7", "RWKV7", "states in place of caches", "split prompts", "a vocabulary of byte strings"),
    _decoder("smollm3", "SmolLM3", "layers without positions"),
    _seq2seq("t5", "T5", "relative positions", "cross cache"),
    _seq2seq("t5gemma", "T5Gemma", "softcap", "local windows", "head grouping", "cross cache"),
    _seq2seq("t5gemma2", "T5Gemma2", "one attention over both caches", "norms of queries and keys", "local and global layers"),
)
