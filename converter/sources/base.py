"""What every kind of source knows and can do, and the registry of kinds."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

from kexport.converter.backbone_refusals import BACKBONE_REFUSALS
from kexport.converter.keras_env import import_keras_hub
from kexport.converter.other_tasks import OtherTask, other_task
from kexport.converter.refusals import REFUSALS
from kexport.converter.sources.chat_files import ChatFiles
from kexport.runtime.contract import manifest
from kexport.runtime.contract.errors import InvalidInputError, KexportError, UnsupportedError, UsageError

NO_TOKENIZER_HINT = "convert with --no-tokenizer to leave the tokenizer out"
_KERAS_HUB_CLASSES = {"causal-lm": "CausalLM", "seq2seq-lm": "Seq2SeqLM", "backbone": "Backbone"}
_TASK_SUFFIXES: dict[str, manifest.Task] = {"CausalLM": "causal-lm", "Seq2SeqLM": "seq2seq-lm", "Backbone": "backbone"}
_GENERATIVE = {"causal-lm", "seq2seq-lm"}
_LONGEST_CAUSE = 300


@dataclass(frozen=True)
class Options:
    """How a source is opened: the task asked for (None: the source's own), whether it is trusted, whether its tokenizer is wanted."""

    task: manifest.Task | None = None
    trust_source: bool = False
    tokenizer: bool = True


@dataclass(kw_only=True)
class Source(ABC):
    """An original model: what is known before anything heavy is imported, and the stock ways to build and load it.

    `class_name`: the Keras class of the task, or of the backbone where only that is declared. `config`: the backbone's config.
    `parameter_count`: as declared or counted in the files, 0 = unknown. `dtype`: of the checkpoint, "" = unknown.
    `files`: the local files that hold the weights. `warnings`: what the user should know, though it is no error.
    `chat`: the chat template, None for a base model.
    """

    kind: ClassVar[str]
    handle: str
    task: manifest.Task
    class_name: str
    config: dict[str, Any]
    parameter_count: int = 0
    dtype: str = ""
    files: tuple[Path, ...] = ()
    has_tokenizer: bool = False
    options: Options = field(default_factory=Options)
    warnings: list[str] = field(default_factory=list)
    chat: ChatFiles | None = None

    @abstractmethod
    def build(self, load_weights: bool = False, dtype: str | None = "float32") -> Any:
        """The stock keras_hub task (or backbone), with its preprocessor if there is a tokenizer; weights random unless `load_weights`."""

    @abstractmethod
    def load_weights_into(self, task: Any) -> None:
        """Fills what `build` returned through the stock loader, after checking that file and model match."""

    def load(self, dtype: str | None = "float32") -> Any:
        """The original, ready to run: built in `dtype` (None: the checkpoint's own policy) and loaded."""
        return self.build(load_weights=True, dtype=dtype)

    def record(self, weight_digest: str = "") -> manifest.Source:
        """This source in the manifest's words."""
        return manifest.Source(
            handle=self.handle,
            class_name=self.class_name,
            config=self.config,
            parameter_count=self.parameter_count,
            weight_digest=weight_digest,
        )

    def weight_digest(self) -> str:
        """SHA-256 over the SHA-256 of each weight file, in the order of `files`; "" without files (a live object). Reads every byte."""
        if not self.files:
            return ""
        total = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return f"sha256:{total.hexdigest()}"


Opener = Callable[[Any, Options], "Source | None"]
_OPENERS: list[tuple[int, Opener]] = []


def opens(order: int) -> Callable[[Opener], Opener]:
    """Registers a function that opens what it recognises and returns None for what it does not. Lower orders are asked first."""

    def register(opener: Opener) -> Opener:
        _OPENERS.append((order, opener))
        _OPENERS.sort(key=lambda entry: entry[0])
        return opener

    return register


def open_source(source: Any, *, task: str | None = None, trust_source: bool = False, tokenizer: bool = True) -> Source:
    """Opens a preset directory, a `.keras` file, a Hugging Face model directory, a hub handle, a KerasHub id, or a live keras_hub object.

    Files are checked at once and cheaply; Keras is imported only for live objects and KerasHub ids.
    `task`: `causal-lm`, `seq2seq-lm` or `backbone` (default: the source's own). `trust_source`: allow symbolic links that leave the
    preset, and classes and Lambda code from outside Keras. `tokenizer=False`: build without, and do not check its files.

    Raises:
        UsageError: KX101, an unknown task. InvalidInputError, UnsupportedError, ResourceError: KX4xx, see docs/errors.md.
    """
    if task is not None and task not in get_args(manifest.Task):
        raise UsageError("KX101", f"there is no task `{task}`", hint=f"one of {', '.join(get_args(manifest.Task))}")
    options = Options(task=task, trust_source=trust_source, tokenizer=tokenizer)  # type: ignore[arg-type]
    for _, opener in _OPENERS:
        opened = opener(source, options)
        if opened is not None:
            return opened
    raise InvalidInputError(
        "KX403",
        f"`{source}` is neither a .keras file nor a directory nor anything else that can be converted",
        hint="a preset id, kaggle://..., hf://..., a preset directory, a .keras file, or a keras_hub model",
    )


def task_of_class(class_name: str) -> manifest.Task | None:
    """`MistralCausalLM` -> `causal-lm`, and so on; None for another kind of class."""
    return next((task for suffix, task in _TASK_SUFFIXES.items() if class_name.endswith(suffix)), None)


def choose_task(
    options: Options, handle: str, class_name: str, own: manifest.Task | None, other: OtherTask | None = None
) -> manifest.Task:
    """The task asked for, else the source's own. `other`: what it is otherwise (default: what the class's name tells).

    Raises:
        UnsupportedError: KX417, the source is no generative model, or one that is refused by name, and its backbone was not asked for, or is refused, too.
        UsageError: KX101, it generates, but is not of the kind that was asked for.
    """
    chosen = options.task or own
    if {chosen, own} == _GENERATIVE:
        raise UsageError("KX101", f"{handle} is a `{class_name}`, which is a {own}, not a {chosen}", hint="leave --task out")
    refused, no_backbone = REFUSALS.get(class_name), BACKBONE_REFUSALS.get(class_name)
    if chosen == "backbone" and no_backbone is not None:
        raise UnsupportedError("KX417", f"{handle} is a `{class_name}`, which {no_backbone.what}", hint=no_backbone.hint)
    if chosen is None or (chosen != "backbone" and (own is None or refused is not None)):
        other = other or refused or other_task(class_name)
        raise UnsupportedError("KX417", f"{handle} is a `{class_name}`, which {other.what}", hint=other.hint)
    return chosen


def keras_hub_class(task: manifest.Task, class_name: str = "") -> Any:
    """The keras_hub class whose `from_preset` builds this task: `class_name` where the library has it, else the base class, which chooses by the
    backbone (and of Gemma 4's two tasks takes the draft model)."""
    models = import_keras_hub().models
    base = getattr(models, _KERAS_HUB_CLASSES[task])
    named = getattr(models, class_name, base)
    return named if isinstance(named, type) and issubclass(named, base) else base


@contextlib.contextmanager
def told_apart_from_results() -> Iterator[None]:
    """What converters print inside goes to standard error: standard output is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def backbone_of(model: Any) -> Any:
    """The backbone of a task; a backbone itself."""
    backbone = getattr(model, "backbone", None)
    return model if backbone is None else backbone


@contextlib.contextmanager
def explained(code: str, action: str, hint: str) -> Iterator[None]:
    """Turns what Keras raises on bad files into one error of ours; the original goes to `detail`."""
    try:
        yield
    except (KexportError, MemoryError):
        raise
    except Exception as error:  # Keras, TensorFlow and h5py each raise their own kinds here, and only stock code runs inside
        cause = " ".join(str(error).split())[:_LONGEST_CAUSE]
        raise InvalidInputError(code, f"{action}: {cause}", hint=hint, detail=f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def deserialization_scope(trust_source: bool) -> Iterator[None]:
    """Keras's safe mode stays as it is (on) unless the user trusts the source."""
    if not trust_source:
        yield
        return
    from keras.src.saving.serialization_lib import SafeModeScope

    with SafeModeScope(False):
        yield
