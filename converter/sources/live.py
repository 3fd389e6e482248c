"""A keras_hub object in memory: exported as it stands, never rebuilt."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, ClassVar

from kexport.converter.backbone_refusals import BACKBONE_REFUSALS
from kexport.converter.checks import check_generative, check_tokenizer_fits, highest_token_id
from kexport.converter.refusals import REFUSALS
from kexport.converter.sources.base import Options, Source, backbone_of, choose_task, opens, task_of_class
from kexport.runtime.contract import manifest
from kexport.runtime.contract.errors import InvalidInputError


@dataclasses.dataclass(kw_only=True)
class LiveSource(Source):
    """`model`: the object itself. `build` and `load` hand it out; weights are already in it."""

    kind: ClassVar[str] = "object"
    model: Any

    def build(self, load_weights: bool = False, dtype: str | None = "float32") -> Any:
        """The object itself (its backbone if that was asked for), whatever the arguments: a live model keeps its own policy."""
        return backbone_of(self.model) if self.task == "backbone" else self.model

    def load_weights_into(self, task: Any) -> None:
        """Nothing to do."""


@opens(order=0)
def open_live(source: Any, options: Options) -> LiveSource | None:
    """Anything that is not a string or a path. Raises UnsupportedError KX417 if it is no keras_hub model, KX401 on another backend."""
    if isinstance(source, (str, bytes, os.PathLike)):
        return None
    handle = f"<{type(source).__name__} object>"
    check_generative(source, handle)
    backbone = backbone_of(source)
    tokenizer = getattr(getattr(source, "preprocessor", None), "tokenizer", None)
    if tokenizer is not None and options.tokenizer:
        check_tokenizer_fits(highest_token_id(tokenizer), getattr(backbone, "vocabulary_size", None), f"the tokenizer of {handle}")
    class_name = type(source).__name__
    return LiveSource(
        handle=handle,
        task=choose_task(options, handle, _refused_ancestor(source) or class_name, _task_of_object(source)),
        class_name=class_name,
        config=_serializable(backbone),
        parameter_count=int(backbone.count_params()),
        dtype=str(backbone.variable_dtype),
        has_tokenizer=tokenizer is not None and options.tokenizer,
        options=options,
        model=source,
    )


def _refused_ancestor(source: Any) -> str | None:
    """The class that is refused by name and that the object's class is, or inherits from."""
    return next((ancestor.__name__ for ancestor in type(source).__mro__ if ancestor.__name__ in REFUSALS | BACKBONE_REFUSALS), None)


def _task_of_object(source: Any) -> manifest.Task | None:
    """By the keras_hub base class it inherits from, whatever the user calls the subclass."""
    return next((task for ancestor in type(source).__mro__ if (task := task_of_class(ancestor.__name__)) is not None), None)


def _serializable(backbone: Any) -> dict[str, Any]:
    """The backbone's config as plain JSON values."""
    import keras

    config = keras.saving.serialize_keras_object(backbone).get("config")
    if not isinstance(config, dict):
        raise InvalidInputError("KX450", f"`{type(backbone).__name__}` has no config", hint="give the class a get_config()")
    return config
