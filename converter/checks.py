"""Checks that need the values or the built model: finite weights, a file that matches the model, a tokenizer that fits it.

KerasHub loads a preset whose config has fewer layers than the file holds, whose weights are NaN, or whose tokenizer knows ids that the
embedding does not have, and says nothing. These functions say it. They read shapes only, except `check_finite`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError

Layout = Mapping[str, tuple[int, ...]]
_SHOWN_NAMES = 3
_BESIDE_THE_WEIGHTS = ("optimizer", "seed_generator", "compile_metrics", "_metrics", "_loss_tracker")


def check_finite(name: str, array: np.ndarray[Any, Any]) -> None:
    """Makes sure that a tensor holds neither NaN nor infinity, without a temporary of its size.

    `array`: any shape, any dtype; integers and booleans pass. A minimum and a maximum see every NaN and every infinity.

    Raises:
        InvalidInputError: KX425, with how many values are wrong and where the first one is.
    """
    if array.size == 0 or array.dtype.kind in "iub":
        return
    with np.errstate(invalid="ignore"):
        extremes = np.asarray([array.min(), array.max()]).astype(np.float64)
    if np.isfinite(extremes).all():
        return
    wrong = ~np.isfinite(array.astype(np.float32) if array.dtype.itemsize < np.dtype(np.float32).itemsize else array)
    first = tuple(int(axis) for axis in np.argwhere(wrong)[0])
    raise InvalidInputError(
        "KX425",
        f"weight `{name}` holds {int(wrong.sum())} values that are NaN or infinite, the first at {first}",
        hint="fetch or save the checkpoint again; a training run that diverged leaves such weights",
    )


def check_fix(task: Any, *, wanted: bool) -> None:
    """Makes sure that there is something to correct where `--upstream-fix` is given.

    Raises:
        UnsupportedError: KX242.
    """
    from kexport.graphs.capture.semantics import semantics_of

    if wanted and semantics_of(task).fix is None:
        message = f"there is no corrected form of {type(task).__name__}"
        raise UnsupportedError("KX242", message, hint="leave out --upstream-fix: the artifact then gives what generate() gives")


def check_tokenizer_fits(highest_id: int, vocabulary_size: int | None, name: str) -> None:
    """Makes sure that every id of the tokenizer has a row in the embedding (`vocabulary_size`; None: the model does not say).

    Raises:
        InvalidInputError: KX432.
    """
    if vocabulary_size is not None and highest_id >= vocabulary_size:
        raise InvalidInputError(
            "KX432",
            f"{name} has token id {highest_id}, but the model's vocabulary_size is {vocabulary_size}",
            hint="the tokenizer belongs to another model: put the right one beside the weights, or convert with --no-tokenizer",
        )


def highest_token_id(tokenizer: Any) -> int:
    """The largest id a Keras tokenizer can give; byte-pair vocabularies may have gaps, so their ids are looked at."""
    from kexport.converter.tokenizers.proof import token_ids

    vocabulary = getattr(tokenizer, "vocabulary", None)
    return int(max(vocabulary.values())) if isinstance(vocabulary, dict) and vocabulary else max(token_ids(tokenizer), default=-1)


def model_layout(model: Any) -> dict[str, tuple[int, ...]]:
    """Where Keras keeps each variable of `model` in a weights file: path -> shape. Reads no values, so it takes abstract variables, too."""
    from keras.src.saving import saving_lib

    class Recorder(saving_lib.H5IOStore):  # type: ignore[misc]
        """Takes the variables that a save would write, and writes nothing."""

        def __init__(self) -> None:
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.entry = ""

        def __bool__(self) -> bool:
            return True

        def make(self, path: str, metadata: Any = None) -> Recorder:
            self.entry = path
            return self

        def __setitem__(self, key: str, value: Any) -> None:
            path = "/".join(part for part in (self.entry.strip("/"), "vars", key) if part)
            self.shapes[path] = tuple(int(size) for size in value.shape)

    recorder = Recorder()
    saving_lib._save_state(model, weights_store=recorder, assets_store=None, inner_path="", visited_saveables=set())
    return recorder.shapes


def check_weights_match(model: Any, stored: Layout, file_name: str) -> None:
    """Compares what `model` would read with what the weights file holds (path -> shape), before a byte of it is loaded.

    Raises:
        InvalidInputError: KX422, the file holds variables that the model would silently ignore, or lacks some; KX423, a shape differs.
    """
    wanted = {path: shape for path, shape in model_layout(model).items() if _is_weight(path)}
    held = {path: shape for path, shape in stored.items() if _is_weight(path)}
    _refuse_names("holds", "which the configured model does not have", sorted(held.keys() - wanted.keys()), file_name)
    _refuse_names("lacks", "which the configured model needs", sorted(wanted.keys() - held.keys()), file_name)
    for path, shape in wanted.items():
        if held[path] != shape:
            raise InvalidInputError(
                "KX423",
                f"{file_name}: `{path}` has shape {held[path]}, the config makes it {shape}",
                hint="config and weights are of different models: save the preset again",
            )


def _is_weight(path: str) -> bool:
    return not any(part.startswith(_BESIDE_THE_WEIGHTS) for part in path.split("/"))


def _refuse_names(verb: str, relation: str, names: list[str], file_name: str) -> None:
    if names:
        shown = ", ".join(f"`{name}`" for name in names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
        raise InvalidInputError(
            "KX422",
            f"{file_name} {verb} {len(names)} variables {relation}: {shown}",
            hint="does the config have the right number of layers? config and weights must come from one save",
        )


def check_generative(model: Any, handle: str) -> None:
    """Makes sure that `model` is a keras_hub generative task or a backbone.

    Raises:
        UnsupportedError: KX417.
    """
    from kexport.converter.keras_env import import_keras_hub

    models = import_keras_hub().models
    if not isinstance(model, (models.CausalLM, models.Backbone)):
        raise UnsupportedError(
            "KX417",
            f"{handle} is a `{type(model).__name__}`, not a keras_hub CausalLM, Seq2SeqLM or Backbone",
            hint="convert a generative task, or a task's `.backbone`; for other Keras models there is Keras's own `model.export()`",
        )
