"""`kexport bench`: the formula of the floor, the form of the report, errors of a round."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from kexport.converter.benchmark.rounds import Spread, spread_of
from kexport.converter.benchmark.traffic import step_bytes
from kexport.runtime.contract.manifest import Manifest
from kexport.runtime.contract.manifest_io import read_manifest, write_manifest

from tests.targets.recurrent import write

from .conftest import Run

SPREADS = (
    "ttft_ms",
    "ms_per_token",
    "cpu_ms_per_token",
    "floor_ms_per_token",
    "load_s",
    "peak_rss_mb",
    "peak_anon_mb",
    "bandwidth_gb_per_s",
)
WEIGHT_BYTES = 1_000_000
# 2 layers, keys and values, 2 heads of 16, float32: what gqa_model.py builds.
CACHE_BYTES = 2 * 2 * 2 * 16 * 4


def with_weights(manifest: Manifest, window: int | None = None) -> Manifest:
    """`manifest` with a step that reads WEIGHT_BYTES, its caches limited to a window."""
    signatures = tuple(msgspec.structs.replace(signature, weight_bytes=WEIGHT_BYTES) for signature in manifest.signatures)
    slots = tuple(msgspec.structs.replace(slot, window=window) for slot in manifest.cache.slots)
    return msgspec.structs.replace(manifest, signatures=signatures, cache=msgspec.structs.replace(manifest.cache, slots=slots))


def test_bytes_of_a_step(decoder: Path) -> None:
    """Weights once, caches for every row, and no more of them than the window shows."""
    manifest = with_weights(read_manifest(decoder))
    assert step_bytes(manifest, batch=1, held=10) == WEIGHT_BYTES + 10 * CACHE_BYTES
    assert step_bytes(manifest, batch=3, held=10) == WEIGHT_BYTES + 30 * CACHE_BYTES
    assert step_bytes(with_weights(manifest, window=4), batch=1, held=10) == WEIGHT_BYTES + 4 * CACHE_BYTES


def test_states_are_read_whole(tmp_path: Path) -> None:
    """A row's states cost the same whatever it holds; a model without caches of keys and values has nothing else."""
    for name, per_token in (("hybrid", 2 * 2 * 16 * 4), ("states only", 0)):
        directory = tmp_path / name
        directory.mkdir()
        manifest = with_weights(write("onnx", name, directory).manifest)
        states = manifest.cache.state_bytes
        assert states > 0
        assert step_bytes(manifest, batch=3, held=10) == WEIGHT_BYTES + 3 * (states + 10 * per_token)


def test_cross_caches_are_read_whole(encoder_decoder: Path) -> None:
    """A decoder step reads its own caches and all of the encoder's."""
    manifest = with_weights(read_manifest(encoder_decoder))
    assert step_bytes(manifest, batch=1, held=10, encoder_length=7) == WEIGHT_BYTES + (10 + 7) * CACHE_BYTES


def test_caches_inside_the_model_are_read_too(decoder: Path) -> None:
    """A cache that is a state of the model is no input of its step; its slot says how large it is."""
    manifest = with_weights(read_manifest(decoder))
    step = manifest.signatures[0]
    hidden = msgspec.structs.replace(step, inputs=tuple(spec for spec in step.inputs if not spec.name.startswith("past_key_values")))
    assert len(hidden.inputs) < len(step.inputs)
    assert step_bytes(msgspec.structs.replace(manifest, signatures=(hidden,)), batch=3, held=10) == WEIGHT_BYTES + 30 * CACHE_BYTES


def test_unknown_weights_have_no_floor(decoder: Path) -> None:
    """A manifest that does not say what a step reads gives no floor instead of a wrong one."""
    assert step_bytes(read_manifest(decoder), batch=1, held=10) == 0


def test_spread() -> None:
    """Median, least and greatest."""
    assert spread_of([3.0, 1.0, 8.0]) == Spread(median=3.0, min=1.0, max=8.0)


def test_report(run: Run, decoder: Path, tmp_path: Path) -> None:
    """The JSON has the contract's keys, each with median, min and max, in order."""
    for path in decoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_manifest(tmp_path, with_weights(read_manifest(decoder)))
    result = run(
        "bench", tmp_path, "--prompt-tokens", 8, "--new-tokens", 8, "--rounds", 2, "--threads", 1, "--batch", 2, "--json", "--quiet"
    )
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    document = json.loads(result.stdout)
    for key in SPREADS:
        spread = document[key]
        assert 0 < spread["min"] <= spread["median"] <= spread["max"], key


@pytest.mark.parametrize(("arguments", "code"), [(("--prompt-tokens", "60", "--new-tokens", "8"), "KX523")])
def test_errors_of_a_round_are_the_commands(run: Run, decoder: Path, arguments: tuple[str, ...], code: str) -> None:
    """What fails in a round's process comes out as the command's own error."""
    result = run("bench", decoder, *arguments, "--rounds", 1, "--quiet")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr.startswith(f"error[{code}]")


def test_the_encoder_has_a_capacity_of_its_own(run: Run, encoder_decoder: Path, tmp_path: Path) -> None:
    """A prompt longer than the encoder's position table is refused before it is run."""
    for path in encoder_decoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = read_manifest(encoder_decoder)
    write_manifest(tmp_path, msgspec.structs.replace(manifest, cache=msgspec.structs.replace(manifest.cache, encoder_capacity=8)))
    result = run("bench", tmp_path, "--prompt-tokens", 9, "--new-tokens", 4, "--rounds", 1, "--quiet")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "the encoder takes up to 8" in result.stderr
