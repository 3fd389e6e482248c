"""Which model families convert, as data: `kexport list`, the README's table and the tests read this, nothing in the converter does.

Capture knows no families. A family stands here when its odd configurations are compared token by token with KerasHub in tests/, for
every target that its line names; another family may convert as well, and its own parity check then says whether it is right.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """One line of the support table.

    `classes`: the KerasHub task classes. `targets`: those that the tests prove. `features`: what of the family the tests switch off one by one,
    to see the tokens change.
    """

    name: str
    classes: tuple[str, ...]
    task: str
    targets: tuple[str, ...]
    features: tuple[str, ...]


FAMILIES = (
    Family(name="bart", classes=("BartSeq2SeqLM",), task="seq2seq-lm", targets=("onnx", "openvino", "savedmodel", "tflite"), features=("cross cache", "learned positions")),
    Family(name="bloom", classes=("BloomCausalLM",), task="causal-lm", targets=("onnx", "openvino", "savedmodel", "tflite"), features=("alibi", "tied head")),
    Family(name="gemma", classes=("GemmaCausalLM",), task="causal-lm", targets=("onnx", "openvino", "savedmodel", "tflite"), features=("rotary", "1 + w norms", "head grouping")),
    Family(
        name="gemma2", classes=("GemmaCausalLM",), task="causal-lm", targets=("onnx", "openvino", "savedmodel", "tflite"), features=("softcap", "local windows", "query scale"),
    ),
    Family(name="mistral", classes=("MistralCausalLM",), task="causal-lm", targets=("onnx", "openvino", "savedmodel", "tflite"), features=("rotary", "sliding window", "head grouping")),
)  # fmt: skip
