"""The benchmark presets: real presets, written without ever holding the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import make_models
import numpy as np
import pytest

TINY = make_models.Size(num_layers=2, num_query_heads=4, num_key_value_heads=2, hidden_dim=64, intermediate_dim=96, vocabulary_size=300)
CLEAR_GAP = 1e-3  # a hundred times the float32 noise of such a model's logits


def test_numbers_depend_on_the_path_only() -> None:
    """The same variable gets the same numbers in every run; two variables of one shape get different ones."""
    first = make_models.numbers("layer_0/query/kernel", (8, 2, 4))
    assert np.array_equal(first, make_models.numbers("layer_0/query/kernel", (8, 2, 4)))
    assert not np.array_equal(first, make_models.numbers("layer_0/key/kernel", (8, 2, 4)))
    assert first.dtype == np.float32


def test_spread_follows_the_fan_in() -> None:
    """A kernel's fan-in is what it sums over: the hidden size for queries, heads times head size for the output projection."""
    query = make_models.spread("x/query/kernel", (64, 4, 16))
    output = make_models.spread("x/attention_output/kernel", (4, 16, 64))
    assert query == pytest.approx(output) == pytest.approx(make_models.BRANCH_GAIN / 8)


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    """A preset that cannot fit is refused with both sizes."""
    with pytest.raises(click.ClickException, match="are free"):
        make_models.check_disk(tmp_path / "out", 10**18)


def test_an_existing_output_is_left_alone(tmp_path: Path) -> None:
    """The script never writes over what is there."""
    script = str(Path(make_models.__file__))
    done = subprocess.run([sys.executable, script, "bench", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "exists" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_preset_loads_with_the_numbers_and_has_margins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KerasHub loads it, every variable holds its path's numbers, and greedy decoding never meets a near tie."""
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    import keras_hub

    make_models.build(TINY).save_to_preset(str(tmp_path / "preset"))
    task = keras_hub.models.CausalLM.from_preset(str(tmp_path / "preset"), preprocessor=None)
    assert json.loads((tmp_path / "preset" / "metadata.json").read_text())["parameter_count"] == task.count_params()
    for variable in task.backbone.variables:
        assert np.array_equal(variable.numpy(), make_models.numbers(variable.path, tuple(variable.shape))), variable.path
    ids = np.random.default_rng(0).integers(1, TINY.vocabulary_size, (3, 40))
    logits = np.sort(np.asarray(task.score(ids, scoring_mode="logits")), axis=-1)
    gaps = logits[..., -1] - logits[..., -2]
    assert np.median(gaps) > 100 * CLEAR_GAP
    assert np.mean(gaps < CLEAR_GAP) < 0.02
