"""Write the presets that benchmarks and memory tests run on: a Mistral of a given size with random weights, in bounded memory.

    python benchmarks/make_models.py bench OUT              # 12 layers of 768: 124 M parameters, 0.5 GB
    python benchmarks/make_models.py big OUT --layers 18    # 18 layers of 2048: 1.1 B parameters, 4.5 GB

The stock KerasHub class is built and the stock saver writes it, but no variable is ever initialised: the saver asks for one value at a time, and only
then are its numbers drawn. So memory holds one tensor, and a preset can be larger than the machine's.

The numbers are seeded by the variable's path and scaled by its fan-in, which keeps activations and logits near 1: random as they are, such models have
clear margins between the best and the second best token.
"""

from __future__ import annotations

import os
import shutil
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import keras
    import keras_hub

GIGABYTE = 1_000_000_000
FLOAT32_BYTES = 4
NORM_SPREAD = 0.1
LOGIT_SPREAD = 2.0  # standard deviation of the logits: wide enough for clear margins
BRANCH_GAIN = 1.5
DISK_RESERVE_BYTES = GIGABYTE
ONE_FILE_GB = 10.0  # KerasHub's own default for the size of a weight file


@dataclass(frozen=True)
class Size:
    """The constructor arguments of a `MistralBackbone`."""

    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    vocabulary_size: int = 32_000
    sliding_window: int = 4096


SIZES = {
    "bench": Size(num_layers=12, num_query_heads=12, num_key_value_heads=4, hidden_dim=768, intermediate_dim=2048),
    "big": Size(num_layers=18, num_query_heads=16, num_key_value_heads=4, hidden_dim=2048, intermediate_dim=7168),
}


@click.command()
@click.argument("name", type=click.Choice(list(SIZES)))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--layers", type=click.IntRange(min=1), help="Number of layers, instead of the size's own.")
@click.option("--max-shard-gb", default=ONE_FILE_GB, show_default=True, help="Split the weights into files of at most this size.")
def main(name: str, output: Path, layers: int | None, max_shard_gb: float) -> None:
    """Write the preset NAME to OUTPUT."""
    size = SIZES[name] if layers is None else replace(SIZES[name], num_layers=layers)
    if output.exists():
        raise click.ClickException(f"{output} exists")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    task = build(size)
    parameters = task.count_params()
    check_disk(output, parameters * FLOAT32_BYTES)
    task.save_to_preset(str(output), max_shard_size=max_shard_gb)
    click.echo(f"{output}: {parameters} parameters, {parameters * FLOAT32_BYTES / GIGABYTE:.2f} GB", err=True)


def check_disk(output: Path, needed: int) -> None:
    """Raise `click.ClickException` unless the disk has `needed` bytes and some to spare."""
    parent = output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < needed + DISK_RESERVE_BYTES:
        raise click.ClickException(f"{needed / GIGABYTE:.1f} GB are needed in {parent}, {free / GIGABYTE:.1f} GB are free")


def build(size: Size) -> keras_hub.models.MistralCausalLM:
    """Return a task none of whose variables hold a value; reading one draws its numbers anew, the same each time."""
    import keras
    import keras_hub

    with keras.StatelessScope(initialize_variables=False):
        backbone = keras_hub.models.MistralBackbone(**asdict(size))
    for variable in backbone.variables:
        variable._initializer = initializer(variable)  # what an uninitialised variable's value is drawn from
    return keras_hub.models.MistralCausalLM(backbone=backbone, preprocessor=None)


def initializer(variable: keras.Variable) -> Any:
    """Return the Keras initializer (a callable of shape and dtype) for `variable`."""
    path = str(variable.path)
    return lambda shape, dtype=None: numbers(path, tuple(shape))


def numbers(path: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return float32 random numbers for the variable `path`: norm scales near 1, matrices scaled by their fan-in."""
    generator = np.random.default_rng(zlib.crc32(path.encode()))
    values = generator.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return np.float32(1) + np.float32(NORM_SPREAD) * values
    values *= np.float32(spread(path, shape))
    return values


def spread(path: str, shape: tuple[int, ...]) -> float:
    """Return the standard deviation for a matrix: 1 for embeddings (every branch reads them normalised), else a gain over the root of the fan-in."""
    if path.endswith("/embeddings"):
        return 1.0
    fan_in = int(np.prod(shape[:-1])) if "attention_output" in path else shape[0]  # the output projection reads [heads, head_dim]
    gain = LOGIT_SPREAD if path.endswith("/reverse_embeddings") else BRANCH_GAIN
    return float(gain / np.sqrt(fan_in))


if __name__ == "__main__":
    main()
