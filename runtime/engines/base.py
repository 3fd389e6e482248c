"""What every engine does: append tokens to caches and return the logits of each row's last token. And the registry of engines.

An engine is the file `runtime/engines/<target>.py`; importing it registers it, and it is imported only when an artifact of its target is
opened. Padding, chunking, buckets and limits of a library or a file (`Signature.max_batch_with_past`, `max_sequence`) are the engine's
business: whoever calls `extend` gives the tokens as they come.

Where a model has states (recurrent layers), no padding may stand in a call: rows go together over columns in which all of them have
tokens (`equal_steps`), and the states of a row that has none are what they were.

The generation loop, the parity gate and the benchmark sit on this protocol alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import STATE_KINDS, Adapter, CacheSlot, Manifest, Signature, TensorSpec

Tokens = npt.NDArray[np.integer[Any]]
Lengths = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
HiddenStates = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EngineOptions:
    """How to open an artifact.

    `threads`: CPU threads of one call; None leaves the choice to the library. `low_memory`: weights stay mapped from their file where the
    library can do so, at some cost in speed.
    """

    threads: int | None = None
    low_memory: bool = False


class CacheState(ABC):
    """The caches of a batch. `lengths[b]`: how many tokens row b holds; `capacity`: how many a row can hold.

    `prefilled`: KerasHub's prefill computes so many tokens of each row in one call of that length, and every later token in a call of its own; models
    with `Engine.takes_extents` are told. `valid_lengths[b]`: row b's tokens from this position on are padding, which models with `Engine.marks_padding` must be told; None: none are.
    """

    capacity: int
    lengths: Lengths
    has_states: bool = False
    prefilled: tuple[int, int] = (0, 0)
    valid_lengths: Lengths | None = None

    @property
    def batch_size(self) -> int:
        """The number of rows."""
        return len(self.lengths)

    def extents(self, positions: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
        """For engines: what the input `extent` is fed for tokens at `positions`: where KerasHub's call that computes each of them ends."""
        tokens, length = self.prefilled
        return np.where(positions < tokens, length, positions + 1).astype(np.int32)

    @abstractmethod
    def reorder(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        """Row b continues what row `rows[b]` held; there may be more or fewer rows afterwards (beams, finished rows)."""

    @abstractmethod
    def snapshot(self) -> object:
        """A copy of the contents, for `restore`."""

    @abstractmethod
    def restore(self, snapshot: object) -> None:
        """Go back to what `snapshot` held, its number of rows included."""

    def rewind(self, lengths: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        """Forget the tokens of row b from `lengths[b]` on.

        Raises InvalidInputError (KX551) for a length that was never reached, UnsupportedError (KX561) where rows keep states, which hold
        all of their tokens in one.
        """
        if self.has_states and (self._reached(lengths) != self.lengths).any():
            hint = "take a `snapshot` before the tokens and `restore` it"
            raise UnsupportedError("KX561", "this model has recurrent layers, whose states cannot be rewound", hint=hint)
        self.step_back(lengths)

    def step_back(self, lengths: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        """Write row b's next token to position `lengths[b]`: caches of keys and values forget what stands from there on, states stay as they are,
        with all tokens they took. KerasHub's own loop does so after it prefilled the whole buffer. Raises InvalidInputError (KX551) as `rewind`."""
        self.lengths[:] = self._reached(lengths)

    def _reached(self, lengths: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Lengths:
        """The lengths as an array. Raises InvalidInputError (KX551) where a row never reached its own."""
        wanted = np.asarray(lengths, np.int64)
        if wanted.shape != self.lengths.shape or (wanted < 0).any() or (wanted > self.lengths).any():
            raise InvalidInputError("KX551", f"cannot rewind rows of {self.lengths.tolist()} tokens to {wanted.tolist()}")
        return wanted


class Engine(ABC):
    """One opened artifact. Not safe for use by several threads at once; caches are separate, so several conversations may share it."""

    vocabulary_size: int
    takes_extents: bool = False  # whether a token's result depends on which of KerasHub's calls computes it: `CacheState.prefilled` says which
    marks_padding: bool = False  # whether padding leaves traces in the model's states: `CacheState.valid_lengths` says where it stands
    hidden_size: int = 0  # the width of the hidden states that the artifact gives beside logits; 0: it gives none
    _hidden_states: HiddenStates | None = None  # where a running `extend_with_hidden_states` collects them

    @abstractmethod
    def new_cache(self, batch_size: int, capacity: int) -> CacheState:
        """Empty caches for `batch_size` rows of at most `capacity` tokens."""

    @abstractmethod
    def extend(self, cache: CacheState, tokens: Tokens, lengths: Sequence[int] | Lengths | None = None) -> Logits:
        """Append `tokens[b, :lengths[b]]` to row b and return float32 logits [batch, vocabulary] of each row's last new token.

        `tokens` is [batch, sequence], right padded; `lengths` None means all of it. A row of length 0 is left as it is, and its logits
        mean nothing. The result is the caller's own. Raises InvalidInputError (KX552) for shapes that do not fit and
        (KX553) where a row would grow beyond its capacity.
        """

    def extend_with_hidden_states(self, cache: CacheState, tokens: Tokens) -> tuple[Logits, HiddenStates]:
        """`extend` by all of `tokens`; beside the logits the new tokens' hidden states, float32 [batch, sequence, hidden_size].

        Raises as `extend` does, and UnsupportedError (KX559) where the artifact gives none.
        """
        if not self.hidden_size:
            hint = "convert again with --signatures hidden_states"
            raise UnsupportedError("KX559", "this artifact gives no hidden states, which contrastive search compares", hint=hint)
        self._hidden_states = np.zeros((*tokens.shape, self.hidden_size), np.float32)
        try:
            return self.extend(cache, tokens), self._hidden_states
        finally:
            self._hidden_states = None

    def collect_hidden_states(self, rows: slice, start: int, values: npt.NDArray[Any]) -> None:
        """For engines: a call gave `values` [rows, columns, hidden_size] for the columns of this `extend` from `start` on; more are padding."""
        if self._hidden_states is not None:
            columns = min(values.shape[1], self._hidden_states.shape[1] - start)
            self._hidden_states[rows, start : start + columns] = values[:, :columns]

    def describe(self, step: Signature) -> None:
        """For engines: let the step say what it takes and gives beside tokens and logits."""
        inputs = {spec.name for spec in step.inputs}
        self.takes_extents, self.marks_padding = names.EXTENT in inputs, names.VALID_LENGTHS in inputs
        self.hidden_size = hidden_size_of(step)

    def valid_lengths_of(self, cache: CacheState, rows: slice = slice(None)) -> npt.NDArray[np.int32]:
        """For engines: what the input `valid_lengths` is fed, int32; where no token is padding, a position that no token reaches."""
        lengths = np.full(cache.batch_size, cache.capacity) if cache.valid_lengths is None else cache.valid_lengths
        return lengths[rows].astype(np.int32)

    def encode(self, tokens: Tokens, padding_mask: npt.NDArray[np.bool_], cache: CacheState) -> None:
        """Fill the cross-attention caches from the encoder prompt: both [batch, encoder sequence], the mask True on real tokens.

        Raises UnsupportedError (KX554) on a model without an encoder.
        """
        raise UnsupportedError("KX554", "this artifact has no encoder", hint="pass `token_ids` and `padding_mask` only")

    def fill(self, cache: CacheState, contents: Sequence[Sequence[npt.NDArray[Any]]]) -> None:
        """Let an empty cache hold what another signature computed: `contents[b]` are row b's keys and values [tokens, heads, head_dim] of every slot, in the
        order of the manifest's slots, or nothing for a row that stays empty. `check_contents` is for engines.

        Raises InvalidInputError: KX552 for contents that do not fit, KX553 where a row would hold more than its capacity.
        """
        raise UnsupportedError("KX558", "this artifact's engine takes no prompts with images", hint="give texts alone")

    def set_adapter(self, adapter: Adapter | None) -> None:
        """Compute with the adapter added to the weights, None: without one. Caches made before go on as they were made, or become unusable.

        Raises UnsupportedError (KX372) on an engine that cannot, InvalidInputError (KX371) where adapter and weights do not fit each other.
        """
        if adapter is not None:
            raise UnsupportedError("KX372", "this artifact's engine takes no adapters at run time", hint="convert with the adapter merged")

    @abstractmethod
    def close(self) -> None:
        """Give everything back; the engine and its caches are unusable afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def normal_lengths(cache: CacheState, tokens: Tokens, lengths: Sequence[int] | Lengths | None) -> Lengths:
    """`extend`'s lengths as an array, its arguments checked: shared by all engines. Raises InvalidInputError (KX552, KX553)."""
    if tokens.ndim != 2 or len(tokens) != cache.batch_size:
        raise InvalidInputError("KX552", f"tokens of shape {tokens.shape} do not fit a cache of {cache.batch_size} rows")
    width = tokens.shape[1]
    result = np.full(len(tokens), width, np.int64) if lengths is None else np.asarray(lengths, np.int64)
    if result.shape != (len(tokens),) or (result < 0).any() or (result > width).any():
        raise InvalidInputError("KX552", f"lengths {result.tolist()} do not fit tokens of shape {tokens.shape}")
    longest = int((cache.lengths + result).max(initial=0))
    if longest > cache.capacity:
        hint = "ask for fewer tokens, or convert again with a larger --max-length"
        raise InvalidInputError("KX553", f"{longest} tokens do not fit a cache of {cache.capacity}", hint=hint)
    return result


def check_contents(cache: CacheState, contents: Sequence[Sequence[npt.NDArray[Any]]], tensors: int) -> Lengths:
    """How many tokens each row of `fill`'s contents holds. Raises InvalidInputError (KX552, KX553)."""
    if len(contents) != cache.batch_size or cache.lengths.any() or any(len(row) not in (0, tensors) for row in contents):
        raise InvalidInputError("KX552", f"contents of {len(contents)} rows do not fit an empty cache of {cache.batch_size} rows and {tensors} tensors")
    lengths = np.array([len(row[0]) if row else 0 for row in contents], np.int64)
    if int(lengths.max()) > cache.capacity:
        hint = "ask for fewer tokens, or convert again with a larger --max-length"
        raise InvalidInputError("KX553", f"{int(lengths.max())} tokens do not fit a cache of {cache.capacity}", hint=hint)
    return lengths


def equal_steps(counts: Lengths, longest: int) -> Iterator[tuple[int, int]]:
    """Ranges of columns in which no row ends except at the end: [0, shortest), [shortest, next), ..., none wider than `longest`."""
    start = 0
    for stop in sorted({int(count) for count in counts} - {0}):
        while start < stop:
            end = min(start + longest, stop)
            yield start, end
            start = end


def state_slots(manifest: Manifest) -> list[CacheSlot]:
    """The states that rows keep. Raises InvalidInputError (KX555) for one that is not one tensor in and one out."""
    slots = [slot for slot in manifest.cache.slots if slot.kind in STATE_KINDS]
    for slot in slots:
        if len(slot.inputs) != 1 or len(slot.outputs) != 1:
            raise InvalidInputError("KX555", f"the state `{slot.name}` has {len(slot.inputs)} inputs and {len(slot.outputs)} outputs")
    return slots


def slot_specs(slots: Sequence[CacheSlot], step: Signature) -> tuple[TensorSpec, ...]:
    """The inputs of `step` that are the slots' tensors, in their order. Raises InvalidInputError (KX555) for one that it does not have."""
    specs = {spec.name: spec for spec in step.inputs}
    wanted = [name for slot in slots for name in slot.inputs]
    missing = [name for name in wanted if name not in specs]
    if missing:
        raise InvalidInputError("KX555", f"the cache tensor `{missing[0]}` is not an input of `{step.name}`")
    return tuple(specs[name] for name in wanted)


def hidden_size_of(step: Signature) -> int:
    """The width of the hidden states that a signature gives, 0 without any."""
    width = next((spec.shape[-1] for spec in step.outputs if spec.name == names.HIDDEN_STATES and spec.shape), 0)
    return width if isinstance(width, int) else 0


Opener = Callable[[Path, Manifest, EngineOptions], Engine]
_OPENERS: dict[str, Opener] = {}


def register_engine(target: str) -> Callable[[Opener], Opener]:
    """Decorator for an engine file's opener: it opens the artifacts of `target`, which is also the file's name."""

    def register(opener: Opener) -> Opener:
        _OPENERS[target] = opener
        return opener

    return register


def open_engine(directory: Path, manifest: Manifest, *, threads: int | None = None, low_memory: bool = False) -> Engine:
    """Open the artifact in `directory` with the engine of its target.

    Raises UnsupportedError: KX510 for a target without an engine, KX511 where the engine's library is not installed.
    """
    opener = _opener(manifest.target)
    return opener(directory, manifest, EngineOptions(threads=threads, low_memory=low_memory))


def engine_targets() -> list[str]:
    """The targets that have an engine file, whether or not its library is installed."""
    package = importlib.import_module(__package__)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")


def _opener(target: str) -> Opener:
    if target not in _OPENERS:
        known = engine_targets()
        if target not in known:
            raise UnsupportedError("KX510", f"this kexport has no engine for the target `{target}`", hint=f"known: {', '.join(known)}")
        _import_engine(target)
    return _OPENERS[target]


def _import_engine(target: str) -> None:
    try:
        importlib.import_module(f"{__package__}.{target}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kexport"):
            raise  # ours: a bug, not a missing extra
        message = f"the `{target}` engine needs `{error.name}`, which is not installed"
        raise UnsupportedError("KX511", message, hint=f'pip install "kexport[{target}]"') from error
