"""What a conversion is asked for: the options of the command line and of `convert()`, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from kexport.runtime.contract.errors import UnsupportedError, UsageError

Verify = Literal["full", "stream", "none"]
StoredDtype = Literal["float32", "float16", "bfloat16"]
LoraMode = Literal["merge", "separate"]
PLANNED_TARGETS: tuple[str, ...] = ()
ALL_TARGETS = "all"
FIXED_SHAPE_TARGETS = ("tflite",)
NOT_STORED = {"tflite": ("bfloat16",)}  # known before any work; targets refuse for themselves too
# What an artifact may give beyond generating: hidden_states, an output of its steps (contrastive search); the others are calls over whole rows.
SIGNATURES = ("hidden_states", "score", "score_layers", "score_gradients", "embed")
NO_GRADIENTS = ("onnx", "openvino", "tflite")  # targets that refuse them
SEPARATE_ADAPTERS = ("onnx", "openvino")  # targets whose engines take an adapter at run time
PACKAGES = {"tflite": ("tflite", "litertlm")}  # the forms a target's artifact may have, where there are several


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """The options of `kexport convert`. Those below the line are public names whose work is not built yet: setting one is refused.

    `prefill_buckets`: for targets of fixed shapes, the lengths of prompts, and of whole rows, with a signature of their own. `package`: the form of a TFLite artifact.
    `upstream_fix`: the corrected form of what KerasHub does wrong, proven against its uncached forward in place of its `generate()`. `text_only`: leave
    out what a model does with images. `signatures`: what to give beyond logits and generating, of SIGNATURES. `lora`: a file of `save_lora_weights`, or
    several to keep apart; `lora_mode` None merges it.
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
    prefill_buckets: tuple[int, ...] | None = None
    package: str | None = None
    signatures: tuple[str, ...] | None = None
    text_only: bool = False
    lora: str | Path | Sequence[str | Path] | None = None
    lora_mode: LoraMode | None = None
    upstream_fix: bool = False
    # ---- not built yet
    weights: str | None = None
    batch_size: int | None = None
    opset_only: bool = False
    layout: str | None = None
    low_memory: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """The names asked for, each once, in the order given; `all` is every target."""
        from kexport import targets

        return targets.known() if self.target == ALL_TARGETS else tuple(dict.fromkeys(self.target.split(",")))

    @property
    def lora_files(self) -> tuple[str | Path, ...]:
        """The adapters' files, however many were given."""
        return (self.lora,) if isinstance(self.lora, str | Path) else tuple(self.lora or ())


NOT_BUILT = (
    "weights", "batch_size", "opset_only", "layout", "low_memory",
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
    for name in options.signatures or ():
        _one_of("signatures", name, SIGNATURES)
    if options.max_length is not None and options.max_length < 2:
        raise UsageError("KX103", f"--max-length is {options.max_length}", hint="it counts prompt and new tokens together: at least 2")
    _check_target(options.target)
    _check_form(options)
    _check_lora(options)
    return options


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError("KX104", f"--{name} is `{value}`", hint=f"it takes {', '.join(choices)}")


def _check_form(options: ConvertOptions) -> None:
    """Options that only some targets have. `--target all` passes them to those."""
    wanted = options.target.split(",")
    if len(wanted) == 1 and options.dtype in NOT_STORED.get(options.target, ()):
        raise UnsupportedError(
            "KX219",
            f"the target `{options.target}` cannot store weights as `{options.dtype}`",
            hint="--dtype takes another one, or choose another target",
        )
    _check_signatures(options)
    if options.prefill_buckets and not set(wanted) & {*FIXED_SHAPE_TARGETS, ALL_TARGETS}:
        hint = f"targets with fixed shapes: {', '.join(FIXED_SHAPE_TARGETS)}"
        raise UsageError(
            "KX108", f"--prefill-buckets means nothing to the target `{options.target}`, which takes prompts of any length", hint=hint
        )
    if options.prefill_buckets and min(options.prefill_buckets) < 1:
        raise UsageError(
            "KX107", f"--prefill-buckets has {min(options.prefill_buckets)}", hint="a bucket is a number of tokens, at least 1"
        )
    if options.package is not None:
        choices = [name for target in wanted for name in PACKAGES.get(target, ())]
        if not choices and ALL_TARGETS not in wanted:
            raise UsageError(
                "KX108", f"--package means nothing to the target `{options.target}`", hint=f"targets with packages: {', '.join(PACKAGES)}"
            )
        _one_of("package", options.package, tuple(choices) or PACKAGES["tflite"])


def _check_signatures(options: ConvertOptions) -> None:
    """What one target alone cannot have; with several each refuses for itself."""
    asked = set(options.signatures or ())
    if options.target in NO_GRADIENTS and "score_gradients" in asked:
        raise UnsupportedError("KX382", f"the target `{options.target}` has no gradients", hint="--signatures score_gradients works with --target savedmodel")


def _check_lora(options: ConvertOptions) -> None:
    """How adapters may be converted."""
    files = options.lora_files
    if options.lora_mode is not None:
        _one_of("lora-mode", options.lora_mode, get_args(LoraMode))
        if not files:
            raise UsageError("KX108", "--lora-mode means nothing without --lora", hint="give the adapter's file with --lora")
    if len(files) > 1:
        _check_several(files, options.lora_mode)
    refused = [target for target in options.targets if target not in SEPARATE_ADAPTERS]
    if options.lora_mode == "separate" and refused:
        raise UnsupportedError(
            "KX365",
            f"the target `{refused[0]}` cannot take adapters at run time",
            hint=f"merge the adapter (leave out --lora-mode), or choose {' or '.join(SEPARATE_ADAPTERS)}",
        )


def _check_several(files: tuple[str | Path, ...], mode: LoraMode | None) -> None:
    """Several adapters are chosen from, so each needs a name, which is a file's name on any file system."""
    from kexport.converter.lora import adapter_name

    if mode != "separate":
        message = f"{len(files)} adapters cannot be merged: a KerasHub model holds one at a time"
        raise UsageError("KX368", message, hint="keep them apart with --lora-mode separate, or convert once for each")
    seen: dict[str, str | Path] = {}
    for path in files:
        name = adapter_name(path)
        if name.casefold() in seen:
            message = f"`{seen[name.casefold()]}` and `{path}` would both be the adapter `{name}`"
            raise UsageError("KX369", message, hint="an adapter is called as its file is: rename one of them")
        seen[name.casefold()] = path


def _check_target(target: str) -> None:
    from kexport import targets

    for name in target.split(","):
        if name == ALL_TARGETS and target == ALL_TARGETS:
            continue
        if name in PLANNED_TARGETS and name not in targets.known():
            raise UnsupportedError("KX207", f"the target `{name}` is not built yet", hint=f"built: {', '.join(targets.known())}")
        if name not in targets.known():
            raise UsageError("KX101", f"there is no target `{name}`", hint=f"the targets are: {', '.join(targets.known())}; or all")
