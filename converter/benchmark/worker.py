"""One round of a benchmark, in a process of its own:

    python -m kexport.converter.benchmark.worker '{"artifact": ..., "prompt_tokens": 512, ...}'

Prints `{"mark": "memory"}` once the artifact is loaded, prefilled and has decoded a little: until then its memory is watched from outside, and
only afterwards the bandwidth probe takes its array. Then prints the round's figures, or the error that ended it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kexport.converter.benchmark.bandwidth import REST_SECONDS, BandwidthProbe
from kexport.converter.benchmark.traffic import step_bytes
from kexport.runtime.contract.errors import InvalidInputError, KexportError
from kexport.runtime.engines.base import CacheState, Engine
from kexport.runtime.language_model import LanguageModel
from kexport.runtime.loading import load_language_model
from kexport.runtime.native_output import mute_at_exit

WARM_UP_STEPS = 3
STEPS_BETWEEN_PROBES = 8
SEED = 7
_STATUS = Path("/proc/self/status")
_BYTES_PER_MEGABYTE = 1_000_000
_KIBIBYTE = 1024


@dataclass(frozen=True)
class Work:
    """What a round runs. `threads`: of the engine and of the bandwidth probe."""

    artifact: str
    prompt_tokens: int
    new_tokens: int
    batch: int
    threads: int


@dataclass(frozen=True)
class Figures:
    """What a round measured. `ms_per_token`: the median step of all rows together, `cpu_` the processor time of it; `bandwidth`: the
    median, bytes per second; `step_bytes`: of the average step, 0 = unknown."""

    load_s: float
    ttft_ms: float
    ms_per_token: float
    cpu_ms_per_token: float
    bandwidth: float
    reader: str
    step_bytes: int
    peak_rss_mb: float


def run(work: Work) -> Figures:
    """Run the round. Raises KexportError as loading and generating do."""
    started = time.perf_counter()
    with load_language_model(work.artifact, preprocessor=None, threads=work.threads) as model:
        load_s = time.perf_counter() - started
        _check_length(model, work)
        prompt = np.random.default_rng(SEED).integers(1, model.engine.vocabulary_size, (work.batch, work.prompt_tokens))
        started = time.perf_counter()
        cache, tokens = _prefill(model, prompt, work)
        ttft_ms = (time.perf_counter() - started) * 1e3
        for _ in range(WARM_UP_STEPS):
            tokens = _step(model.engine, cache, tokens)
        peak = _peak_resident_mb()
        print(json.dumps({"mark": "memory"}), flush=True)  # noqa: T201  the parent reads this
        return _decode(model, cache, tokens, work, load_s=load_s, ttft_ms=ttft_ms, peak=peak)


def _decode(model: LanguageModel, cache: CacheState, tokens: Any, work: Work, *, load_s: float, ttft_ms: float, peak: float) -> Figures:
    """Time the steps, the probe between them."""
    walls, processors, bandwidths, needed = [], [], [], []
    encoder_length = work.prompt_tokens if model.manifest.task == "seq2seq-lm" else 0
    with BandwidthProbe(work.threads) as probe:
        for number in range(work.new_tokens):
            if number % STEPS_BETWEEN_PROBES == 0:
                time.sleep(REST_SECONDS)
                bandwidths.append(probe.measure())
                tokens = _step(model.engine, cache, tokens)  # not timed: the probe has emptied the processor's caches
            held = int(cache.lengths[0]) + 1
            wall, processor = time.perf_counter(), time.process_time()
            tokens = _step(model.engine, cache, tokens)
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
            needed.append(step_bytes(model.manifest, batch=work.batch, held=held, encoder_length=encoder_length))
        return Figures(
            load_s=load_s,
            ttft_ms=ttft_ms,
            ms_per_token=statistics.median(walls) * 1e3,
            cpu_ms_per_token=statistics.median(processors) * 1e3,
            bandwidth=statistics.median(bandwidths),
            reader=probe.reader,
            step_bytes=round(statistics.mean(needed)),
            peak_rss_mb=peak,
        )


def positions(work: Work, prompt_tokens: int) -> int:
    """How many positions a round fills: the prompt, the warm-up, the timed steps, and one step after each probe."""
    return prompt_tokens + WARM_UP_STEPS + work.new_tokens + -(-work.new_tokens // STEPS_BETWEEN_PROBES)


def _check_length(model: LanguageModel, work: Work) -> None:
    """Raise InvalidInputError (KX523) for a round that the artifact's capacities do not allow."""
    cache, is_seq2seq = model.manifest.cache, model.manifest.task == "seq2seq-lm"
    wanted = positions(work, 1 if is_seq2seq else work.prompt_tokens)
    if cache.capacity and wanted > cache.capacity:
        hint = f"ask for {cache.capacity} or fewer in all with --prompt-tokens and --new-tokens (the warm-up takes some)"
        raise InvalidInputError("KX523", f"a round fills {wanted} positions; this artifact serves up to {cache.capacity}", hint=hint)
    if is_seq2seq and cache.encoder_capacity and work.prompt_tokens > cache.encoder_capacity:
        message = f"--prompt-tokens {work.prompt_tokens}: the encoder takes up to {cache.encoder_capacity}"
        raise InvalidInputError("KX523", message, hint="ask for a shorter prompt")


def _prefill(model: LanguageModel, prompt: Any, work: Work) -> tuple[CacheState, Any]:
    """Feed the prompt (the encoder's, for a seq2seq model, and one token to the decoder); the caches and each row's first token."""
    is_seq2seq = model.manifest.task == "seq2seq-lm"
    cache = model.engine.new_cache(work.batch, positions(work, 1 if is_seq2seq else work.prompt_tokens))
    if is_seq2seq:
        model.engine.encode(prompt, np.ones(prompt.shape, np.bool_), cache)
        prompt = prompt[:, :1]
    return cache, model.engine.extend(cache, prompt).argmax(axis=-1)


def _step(engine: Engine, cache: CacheState, tokens: Any) -> Any:
    return engine.extend(cache, tokens[:, None]).argmax(axis=-1)


def _peak_resident_mb() -> float:
    """The high-water mark of this process's resident memory; 0 where the system does not say."""
    lines = _STATUS.read_text(encoding="ascii").splitlines() if _STATUS.exists() else []
    found = next((line for line in lines if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(found.split()[1]) * _KIBIBYTE / _BYTES_PER_MEGABYTE


def main(request: str) -> None:
    """The process's entry: see the module."""
    try:
        result: dict[str, Any] = {"figures": asdict(run(Work(**json.loads(request))))}
    except KexportError as error:
        result = {"error": [type(error).__name__, error.code, error.message, error.hint, error.detail]}
    print(json.dumps(result), flush=True)  # noqa: T201  the parent reads this


if __name__ == "__main__":
    mute_at_exit()
    main(sys.argv[1])
