"""What a conversion is asked for: the options of the command line and of `convert()`, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from kexport.runtime.contract.errors import UnsupportedError, UsageError

Verify = Literal["full", "stream", "none"]
StoredDtype = Literal["float32", "float16", "bfloat16"]
PLANNED_TARGETS = ("savedmodel", "tflite")
ALL_TARGETS = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """See CONTRACTS in docs/cli.md. The options below the line are public names whose work is not built yet: setting one is refused.

    `verify`: None chooses by available memory. `max_length`: None chooses (position table, else preprocessor's length, at least 2048).
    """

    target: str = "onnx"
    dtype: StoredDtype = "float32"
    max_length: int | None = None
    task: str | None = None
    tokenizer: bool = True
    verify: Verify | None = None
    keep_failed: bool = False
    trust_source: bool = False
    force: bool = False
    # ---- not built yet
    weights: str | None = None
    prefill_buckets: tuple[int, ...] | None = None
    batch_size: int | None = None
    lora: str | None = None
    lora_mode: str | None = None
    signatures: tuple[str, ...] | None = None
    opset_only: bool = False
    package: str | None = None
    upstream_fix: bool = False
    layout: str | None = None
    low_memory: bool = False


NOT_BUILT = (
    "weights", "prefill_buckets", "batch_size", "lora", "lora_mode", "signatures", "opset_only", "package", "upstream_fix", "layout", "low_memory",
)  # fmt: skip


def make_options(**given: Any) -> ConvertOptions:
    """Options from keyword arguments.

    Raises:
        UsageError: an unknown option or value.
        UnsupportedError: an option or target that is not built yet.
    """
    known = {field.name for field in fields(ConvertOptions)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise UsageError("KX102", f"convert() has no option `{unknown[0]}`", hint=f"the options are: {', '.join(sorted(known))}")
    options = ConvertOptions(**given)
    for name in NOT_BUILT:
        if getattr(options, name):
            raise UnsupportedError("KX206", f"`--{name.replace('_', '-')}` is not built yet", hint="convert without it")
    _one_of("dtype", options.dtype, get_args(StoredDtype))
    if options.verify is not None:
        _one_of("verify", options.verify, get_args(Verify))
    if options.task == "backbone":
        raise UnsupportedError("KX206", "`--task backbone` is not built yet", hint="convert the CausalLM or Seq2SeqLM task")
    if options.max_length is not None and options.max_length < 2:
        raise UsageError("KX103", f"--max-length is {options.max_length}", hint="it counts prompt and new tokens together: at least 2")
    _check_target(options.target)
    return options


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError("KX104", f"--{name} is `{value}`", hint=f"it takes {', '.join(choices)}")


def _check_target(target: str) -> None:
    from kexport import targets

    for name in target.split(","):
        if (name in PLANNED_TARGETS and name not in targets.known()) or name == ALL_TARGETS:
            raise UnsupportedError("KX207", f"the target `{name}` is not built yet", hint=f"built: {', '.join(targets.known())}")
        if name not in targets.known():
            raise UsageError("KX101", f"there is no target `{name}`", hint=f"the targets are: {', '.join(targets.known())}")
    if "," in target:
        raise UnsupportedError("KX207", "several targets in one conversion are not built yet", hint="convert once for each target")
