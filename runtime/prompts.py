"""Token ids as KerasHub's `generate()` takes and returns them: checked before anything runs, masked and stripped afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from kexport.runtime.contract.errors import InvalidInputError

Ids = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]

AUTO_WITHOUT_TOKENIZER = (
    'A `preprocessor` must be attached to the model if `stop_token_ids="auto"`. Currently `preprocessor=None`. To call `generate()` with '
    "preprocessing detached, either pass `stop_token_ids=None` to always generate until `max_length` or pass a tuple of token ids that "
    "should terminate generation as `stop_token_ids`."
)


@dataclass(frozen=True)
class Prompt:
    """A padded batch: ids [batch, length] (int32 or int64, kept), and a mask of the same shape, True where an id was given.

    `prefix`: a batch of the same rows that the model sees before this one, its first token in the first column whose mask is True (see
    prompt_forms.py); None: there is none.
    """

    ids: Ids
    mask: Mask
    prefix: Prompt | None = None

    @property
    def start(self) -> int:
        """The first column the loop fills: the length of the shortest row; behind a prefix the second one."""
        return int(self.mask.sum(axis=1).min()) if self.prefix is None else 1

    @property
    def longest(self) -> int:
        """How many tokens the longest row has once it is full."""
        return int(self.ids.shape[1]) + (0 if self.prefix is None else int((self.prefix.ids.shape[1] - self.prefix.mask.argmax(axis=1)).max()))

    def first_tokens(self, ids: Ids, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """What the model is fed first of `rows`: their prefix, and `columns` of `ids`; right-padded [rows, tokens], and how many each row has."""
        if self.prefix is None:
            return ids[rows, : columns.max()], columns
        fed = [
            np.concatenate([np.where(mask, prefix, 0)[int(mask.argmax()) :], ids[row, :column]])
            for row, column, prefix, mask in zip(rows, columns, self.prefix.ids[rows], self.prefix.mask[rows], strict=True)
        ]
        lengths = np.array([len(row) for row in fed], np.int64)
        table = np.zeros((len(fed), lengths.max()), ids.dtype)
        for place, row in enumerate(fed):
            table[place, : len(row)] = row
        return table, lengths


def read_prompt(
    ids: Any, mask: Any, *, vocabulary_size: int, capacity: int, ids_name: str = "token_ids", mask_name: str = "padding_mask"
) -> Prompt:
    """A prompt from what the caller gave, under these names in messages.

    `capacity` 0 means no limit. Raises InvalidInputError: KX520 for wrong shapes or types, KX521 for a row without any prompt token,
    KX522 for ids outside the vocabulary, KX523 for more columns than the artifact serves.
    """
    id_array, mask_array = read_table(ids, ids_name), _array(mask, mask_name)
    if mask_array.shape != id_array.shape:
        raise InvalidInputError("KX520", f"`{mask_name}` has the shape {mask_array.shape}, `{ids_name}` {id_array.shape}")
    check_whole(id_array, ids_name)
    prompt = Prompt(id_array, as_mask(mask_array, mask_name))
    _check_rows(prompt, ids_name, vocabulary_size)
    check_capacity(int(id_array.shape[1]), capacity, f"`{ids_name}` is padded to")
    return prompt


def read_table(values: Any, name: str) -> npt.NDArray[Any]:
    """`values` as an array [batch, length] of at least one number. Raises InvalidInputError (KX520) for another shape, or rows of different lengths."""
    table = _array(values, name)
    if table.ndim != 2 or 0 in table.shape:
        raise InvalidInputError("KX520", f"`{name}` has the shape {table.shape}; [batch, length] is wanted")
    return table


def check_whole(table: npt.NDArray[Any], name: str) -> None:
    """Raise InvalidInputError (KX520) for anything but whole numbers."""
    if not np.issubdtype(table.dtype, np.integer):
        raise InvalidInputError("KX520", f"`{name}` are whole numbers, not {table.dtype}")


def as_mask(table: npt.NDArray[Any], name: str) -> Mask:
    """True and false, which may come as 1 and 0. Raises InvalidInputError (KX520) for anything else."""
    if table.dtype != np.bool_ and not np.isin(table, (0, 1)).all():
        raise InvalidInputError("KX520", f"`{name}` holds something else than true and false")
    return table.astype(np.bool_)


def check_capacity(length: int, capacity: int, what: str) -> None:
    """Raise InvalidInputError (KX523) where `length` exceeds what the artifact serves; `what` begins the sentence. 0 means no limit."""
    if capacity and length > capacity:
        hint = f"shorten it to {capacity} tokens"
        if "encoder_" not in what:  # an encoder's bound is its position table; a decoder's may be the option's
            hint += f", or convert again with --max-length {length}"
        raise InvalidInputError("KX523", f"{what} {length} tokens; this artifact serves up to {capacity}", hint=hint)


def read_stop_ids(stop_token_ids: Any, automatic: Sequence[int] | None) -> tuple[int, ...] | None:
    """The stop ids of one call: None, or at least one id. `automatic` None: there is no tokenizer to ask.

    Raises InvalidInputError (KX524); for "auto" without a tokenizer its message is KerasHub's.
    """
    if stop_token_ids is None:
        return None
    if isinstance(stop_token_ids, str):
        if stop_token_ids != "auto":
            raise InvalidInputError("KX524", f'`stop_token_ids` is None, "auto" or a list of ids, not {stop_token_ids!r}')
        if automatic is None:
            raise InvalidInputError("KX524", AUTO_WITHOUT_TOKENIZER)
        return tuple(automatic)
    ids = np.asarray(stop_token_ids)
    if ids.ndim != 1 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise InvalidInputError("KX524", f"`stop_token_ids` holds no list of ids: {stop_token_ids!r}", hint="None never stops early")
    return tuple(ids.tolist())


def output_mask(ids: Ids, prompt_mask: Mask, stop_ids: Sequence[int] | None) -> Mask:
    """True up to and with each row's first stop id outside the prompt; all True in a row without one, and everywhere without stop ids."""
    if stop_ids is None:
        return np.ones(ids.shape, np.bool_)
    stops = np.isin(ids, stop_ids) & ~prompt_mask
    earlier: npt.NDArray[np.int64] = np.cumsum(stops, axis=1) - stops
    mask: Mask = earlier == 0
    return mask


def strip_prompt(ids: Ids, mask: Mask, prompt_mask: Mask) -> tuple[Ids, Mask]:
    """Rows rolled left by their prompt's length, and the mask of what is generated and visible: KerasHub's `strip_prompt=True`.

    The prompt ends up at the end of the rolled ids, outside the mask. Columns are counted from the end, as KerasHub does: `ids` and `mask` may
    have more of them in front than `prompt_mask`, and then lose them.
    """
    length = prompt_mask.shape[1]
    columns = np.arange(length) - (-prompt_mask.sum(axis=1, keepdims=True)) % length
    rolled_ids: Ids = np.take_along_axis(ids, columns, axis=1)
    rolled_mask: Mask = np.take_along_axis(prompt_mask, columns, axis=1) ^ np.take_along_axis(mask, columns, axis=1)
    return rolled_ids, rolled_mask


def _array(values: Any, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise InvalidInputError("KX520", f"`{name}` is not a table of numbers: {error}", hint="pad all rows to one length") from error


def _check_rows(prompt: Prompt, name: str, vocabulary_size: int) -> None:
    empty = np.flatnonzero(~prompt.mask.any(axis=1))
    if empty.size:
        hint = "give each row at least one token, for example the start token"
        raise InvalidInputError("KX521", f"row {int(empty[0])} of `{name}` has no prompt token", hint=hint)
    smallest, largest = int(prompt.ids.min()), int(prompt.ids.max())
    if smallest < 0 or largest >= vocabulary_size:
        wrong = smallest if smallest < 0 else largest
        raise InvalidInputError("KX522", f"`{name}` holds the id {wrong}; the vocabulary has the ids 0 to {vocabulary_size - 1}")
