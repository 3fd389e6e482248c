"""In which form a model takes its prompts and gives its results, by name: the manifest's `Generation.prompt`.

    whole    one buffer: the prompt, then room for new tokens; `max_length` counts both. Nearly all models
    split    all but the prompt's last token stand in a table of their own, padded on the left, which the model sees first; the buffer begins with the
             last one, and `max_length` counts new tokens only. Recurrent models (RWKV)

A split prompt is a `Prompt` with a `prefix`. In its tables the id 0 is padding; as the only token of a prefix it stands for nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from kexport.runtime.batches import unwrapped
from kexport.runtime.contract.errors import InvalidInputError
from kexport.runtime.contract.manifest import Packer
from kexport.runtime.generation import Generated
from kexport.runtime.prompts import Mask, Prompt, check_capacity, output_mask, read_prompt
from kexport.runtime.tokenizer import Tokenizer, pack_rows

PAD = 0
PREFIX = ("token_ids", "input_padding_mask")
BUFFER = ("predict_token_ids", "padding_mask")


class WholePrompts:
    """See the module. `tables`: the ids whose lengths make the length of a result. `shares_buffer`: whether prompt and new tokens stand in one table."""

    tables: tuple[str, ...] = ("token_ids",)
    shares_buffer = True

    def length(self, asked: Any, default: int) -> int:
        """What `generate()` makes of its `max_length`. Raises InvalidInputError (KX527) for one that is none."""
        if asked is None or asked == 0:
            return default
        check_whole_number(asked, least=1)
        return int(asked)

    def max_length(self, asked: Any, default: int, capacity: int) -> int:
        """The same, but never more than the artifact serves. Raises InvalidInputError, KX523 for more."""
        length = self.length(asked, min(default, capacity) if capacity else default)
        check_capacity(length, capacity, "`max_length` asks for")
        return length

    def length_for(self, prompt: int, new: int) -> int:
        """The `max_length` that leaves room for `new` tokens behind `prompt` ones."""
        return prompt + new

    def room(self, tokenizer: Tokenizer, length: int) -> int:
        """How many tokens a prompt may have if an answer is to follow it."""
        return length - 1

    def kept(self, ids: list[int], packer: Packer) -> list[int]:
        """The ids of a text that come back in front of the new ones, where there is room for those."""
        return [*packer.start, *ids]

    def pack(self, tokenizer: Tokenizer, texts: Sequence[str], length: int, capacity: int = 0) -> Prompt:
        """Texts as a prompt; `length` is what `max_length` gave. Raises InvalidInputError (KX523) for one that is too long for the artifact."""
        return tokenizer.pack("prompt", texts, length, capacity=capacity)

    def checked(self, prompt: Prompt, vocabulary_size: int, name: str = "") -> Prompt:
        """What a tokenizer gave, checked as what a caller gives."""
        return read_prompt(prompt.ids, prompt.mask, vocabulary_size=vocabulary_size, capacity=0, ids_name=f"{name}token_ids", mask_name=f"{name}padding_mask")

    def read(self, inputs: Mapping[str, Any], *, vocabulary_size: int, capacity: int, name: str = "") -> Prompt:
        """The prompt of a dict of arrays, whose names begin with `name`. Raises InvalidInputError as `read_prompt`, KX520 for one that is missing."""
        return read_ids_and_mask(inputs, f"{name}token_ids", f"{name}padding_mask", vocabulary_size=vocabulary_size, capacity=capacity)

    def joined(self, generated: Generated, prompt: Prompt, stop_ids: Sequence[int] | None) -> Generated:
        """What `generate()` returns of what the loop gave."""
        return generated

    def opening(self, prompt: Prompt, stop_ids: Sequence[int] | None) -> list[int]:
        """The visible ids of a prompt of one row that stand before what the loop gives."""
        return []

    def as_given(self, mask: Mask) -> Any:
        """The mask of a result in the type that KerasHub gives it."""
        return mask

    def prompt_arrays(self, prompt: Prompt) -> dict[str, Any]:
        """A prompt under KerasHub's names."""
        return {"token_ids": prompt.ids, "padding_mask": prompt.mask}

    def arrays(self, rows: Sequence[Sequence[int]], length: int, pad: int = PAD) -> dict[str, Any]:
        """Rows of at least one id under KerasHub's names; `length` is what `max_length` gave."""
        return self.prompt_arrays(pack_rows(rows, Packer(pad=pad), length))

    def starts(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """The column of a result in which each of these rows begins."""
        return [0] * len(rows)


class SplitPrompts(WholePrompts):
    """See the module."""

    tables = (PREFIX[0], BUFFER[0])
    shares_buffer = False

    def length(self, asked: Any, default: int) -> int:
        if asked is None:
            hint = "there is no default, as in KerasHub; on the command line --max-new-tokens or --max-length, which mean the same here"
            raise InvalidInputError("KX527", "`max_length` must be specified: for this model it is the number of new tokens", hint=hint)
        check_whole_number(asked, least=0)
        return int(asked)

    def length_for(self, prompt: int, new: int) -> int:
        return new

    def room(self, tokenizer: Tokenizer, length: int) -> int:
        return tokenizer.packer("prompt").sequence_length

    def kept(self, ids: list[int], packer: Packer) -> list[int]:
        return ids[-packer.sequence_length :]

    def pack(self, tokenizer: Tokenizer, texts: Sequence[str], length: int, capacity: int = 0) -> Prompt:
        packer = tokenizer.packer("prompt")
        rows = [self.kept(row, packer) for row in tokenizer.encode(texts)]
        empty = next((number for number, row in enumerate(rows) if not row), None)
        if empty is not None:
            raise InvalidInputError("KX521", f"row {empty} has no prompt token", hint="give each prompt at least one character")
        check_capacity(max(map(len, rows)) + length, capacity, "prompt and new tokens have")
        return split(rows, length, packer.sequence_length)

    def checked(self, prompt: Prompt, vocabulary_size: int, name: str = "") -> Prompt:
        return self.read(self.prompt_arrays(prompt), vocabulary_size=vocabulary_size, capacity=0)

    def read(self, inputs: Mapping[str, Any], *, vocabulary_size: int, capacity: int, name: str = "") -> Prompt:
        prefix = read_ids_and_mask(inputs, *PREFIX, vocabulary_size=vocabulary_size, capacity=0)
        buffer = read_ids_and_mask(inputs, *BUFFER, vocabulary_size=vocabulary_size, capacity=0)
        if len(prefix.ids) != len(buffer.ids):
            raise InvalidInputError("KX520", f"`{BUFFER[0]}` has {len(buffer.ids)} rows, `{PREFIX[0]}` {len(prefix.ids)}")
        _check_zeros(prefix)
        prompt = Prompt(buffer.ids, buffer.mask, prefix)
        check_capacity(prompt.longest, capacity, "prompt and new tokens have")
        return prompt

    def joined(self, generated: Generated, prompt: Prompt, stop_ids: Sequence[int] | None) -> Generated:
        """The prefix in front, padding and all; as KerasHub returns it, every id of it but 0 counts as the prompt's."""
        assert prompt.prefix is not None
        ids = np.concatenate([prompt.prefix.ids, generated.ids], axis=1)
        of_prompt = np.concatenate([prompt.prefix.ids != PAD, prompt.mask], axis=1)
        return Generated(ids, output_mask(ids, of_prompt, stop_ids))

    def opening(self, prompt: Prompt, stop_ids: Sequence[int] | None) -> list[int]:
        assert prompt.prefix is not None
        ids = prompt.prefix.ids[:1]
        opening: list[int] = ids[output_mask(ids, ids != PAD, stop_ids)].tolist()
        return opening

    def as_given(self, mask: Mask) -> Any:
        return mask.astype(np.int32)

    def prompt_arrays(self, prompt: Prompt) -> dict[str, Any]:
        assert prompt.prefix is not None
        tables = (prompt.prefix.ids, prompt.prefix.mask, prompt.ids, prompt.mask)
        return dict(zip((*PREFIX, *BUFFER), tables, strict=True))

    def arrays(self, rows: Sequence[Sequence[int]], length: int, pad: int = PAD) -> dict[str, Any]:
        return self.prompt_arrays(split(rows, length, max(map(len, rows))))

    def starts(self, rows: Sequence[Sequence[int]]) -> list[int]:
        return first_columns(rows, max(map(len, rows)))


FORMS: dict[str, WholePrompts] = {"whole": WholePrompts(), "split": SplitPrompts()}


def split(rows: Sequence[Sequence[int]], new_tokens: int, width: int) -> Prompt:
    """Rows of at least one id as split prompts: a prefix padded to `width`, and a buffer of the last id and `new_tokens` more."""
    prefix = pack_rows([row[:-1] or [PAD] for row in rows], Packer(pad=PAD, padding_side="left"), width)
    ids = np.full((len(rows), 1 + new_tokens), PAD, np.int32)
    ids[:, 0] = [row[-1] for row in rows]
    return Prompt(ids, ids != PAD, prefix)


def first_columns(rows: Sequence[Sequence[int]], width: int) -> list[int]:
    """Where each row of a result begins behind the padding of a prefix of `width`."""
    return [width + 1 - len(row) for row in rows]


def read_ids_and_mask(inputs: Mapping[str, Any], ids_name: str, mask_name: str, *, vocabulary_size: int, capacity: int) -> Prompt:
    """Ids and mask of a dict of arrays. Raises InvalidInputError as `read_prompt`, KX520 for one that is missing."""
    missing = [key for key in (ids_name, mask_name) if key not in inputs]
    if missing:
        raise InvalidInputError("KX520", f"the prompt has no `{missing[0]}`", hint=f"it has: {', '.join(map(str, inputs))}")
    ids, mask = unwrapped(inputs[ids_name]), unwrapped(inputs[mask_name])
    return read_prompt(ids, mask, vocabulary_size=vocabulary_size, capacity=capacity, ids_name=ids_name, mask_name=mask_name)


def check_whole_number(max_length: Any, *, least: int) -> None:
    """Raise InvalidInputError (KX527) for anything but a whole number of at least `least`."""
    if isinstance(max_length, bool) or not isinstance(max_length, (int, np.integer)) or max_length < least:
        raise InvalidInputError("KX527", f"`max_length` is a whole number of tokens, not {max_length!r}")


def _check_zeros(prefix: Prompt) -> None:
    """The model reads the id 0 as padding everywhere but at a row's start."""
    first = prefix.mask.argmax(axis=1)
    is_first = np.arange(prefix.ids.shape[1]) == first[:, None]
    wrong = np.flatnonzero((prefix.mask & ~is_first & (prefix.ids == PAD)).any(axis=1))
    if wrong.size:
        hint = f"say so in `{PREFIX[1]}`"
        raise InvalidInputError("KX522", f"row {int(wrong[0])} of `{PREFIX[0]}` holds the id {PAD} as a token; to this model it is padding", hint=hint)
