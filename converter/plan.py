"""What a conversion will do, before it does anything heavy: sizes, memory, disk, how it will be proven, what it refuses.

Everything here is read from the source's small files; no Keras, no weights. Sizes are estimates where the files do not say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kexport.converter.options import ConvertOptions, Verify
from kexport.converter.sources import Source
from kexport.converter.versions import untested_version
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.errors import ResourceError
from kexport.runtime.contract.files import check_free_disk

# Python, TensorFlow, KerasHub and the traced graph, measured: 0.5 GB of private memory.
BASE_BYTES = 600_000_000
# KerasHub's from_preset peaks at 1.5 times the weights; running adds the activations of short prompts.
LOADED_FACTOR = 1.6
# Streaming keeps about three of the largest tensor; the largest is the embedding, at most this share of a model.
STREAMED_SHARE = 0.25
SHARE_OF_FREE_MEMORY = 0.7
FALLBACK_LENGTH = 2048
MANIFEST_BYTES = 20_000_000  # tokenizer, manifest and vendors' files, generously


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be built and what it takes. All sizes in bytes; 0 where unknown.

    `verify`: the depth chosen. `peak_convert`, `peak_verify`: expected private memory. `notes`: what the user should know first.
    """

    source: str
    class_name: str
    task: str
    target: str
    parameters: int
    checkpoint_dtype: str
    stored_dtype: str
    weights: int
    cache_per_token: int
    max_length: int | None
    tokenizer: bool
    verify: Verify
    peak_convert: int
    peak_verify: int
    disk: int
    notes: tuple[str, ...]


def make_plan(source: Source, options: ConvertOptions) -> Plan:
    """Plan the conversion of an opened source."""
    parameters = source.parameter_count
    weights = parameters * item_size(options.dtype)
    loaded = int(parameters * item_size("float32") * LOADED_FACTOR) + BASE_BYTES
    streamed = int(parameters * item_size("float32") * STREAMED_SHARE) + BASE_BYTES
    verify = options.verify or _choose_verify(source, loaded)
    peak_convert = BASE_BYTES + int(weights * STREAMED_SHARE)
    peak_verify = {"full": loaded, "stream": streamed, "none": 0}[verify]
    return Plan(
        source=source.handle,
        class_name=source.class_name,
        task=source.task,
        target=options.target,
        parameters=parameters,
        checkpoint_dtype=source.dtype,
        stored_dtype=options.dtype,
        weights=weights,
        cache_per_token=cache_bytes_per_token(source.config),
        max_length=options.max_length,
        tokenizer=source.has_tokenizer and options.tokenizer,
        verify=verify,
        peak_convert=peak_convert,
        peak_verify=peak_verify,
        disk=weights + MANIFEST_BYTES,
        notes=tuple(_notes(source, options)),
    )


def check_resources(plan: Plan, output: Path, targets: int = 1) -> None:
    """Refuse now what would fail later; `targets`: how many artifacts will be written.

    Raises:
        ResourceError: too little disk, or less memory than the conversion itself needs.
    """
    check_free_disk(output, plan.disk * targets)
    available = available_memory()
    if available and plan.peak_convert > available:
        raise ResourceError(
            "KX603",
            f"converting {plan.source} takes about {plan.peak_convert / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free",
            hint="close other programs, or convert on a larger machine",
        )


def available_memory() -> int:
    """Bytes of memory that can be had now; 0 where the system does not say."""
    try:
        import psutil
    except ImportError:
        return 0
    return int(psutil.virtual_memory().available)


def _choose_verify(source: Source, loaded: int) -> Verify:
    if source.kind == "object":
        return "full"  # it is in memory already
    available = available_memory()
    return "full" if not available or loaded <= SHARE_OF_FREE_MEMORY * available else "stream"


def cache_bytes_per_token(config: dict[str, Any]) -> int:
    """Float32 bytes that one token adds to all caches, from the config's usual names; 0 where they are not all there."""
    layers = config.get("num_layers")
    heads = config.get("num_key_value_heads") or config.get("num_query_heads") or config.get("num_heads")
    query_heads = config.get("num_query_heads") or config.get("num_heads")
    head_dim = config.get("head_dim") or (config["hidden_dim"] // query_heads if config.get("hidden_dim") and query_heads else None)
    if not layers or not heads or not head_dim:
        return 0
    keys_and_values = 2
    return int(keys_and_values * layers * heads * head_dim * item_size("float32"))


def _notes(source: Source, options: ConvertOptions) -> list[str]:
    notes = [*source.warnings, *filter(None, [untested_version()])]
    if options.dtype == "float32" and source.dtype in ("float16", "bfloat16"):
        notes.append(f"the checkpoint is {source.dtype}: --dtype {source.dtype} halves the file and loses nothing")
    if not source.has_tokenizer and options.tokenizer:
        notes.append("the source has no tokenizer: the artifact takes token ids")
    if options.verify == "none":
        notes.append("the artifact will not be compared with the original (--verify none)")
    return notes
