"""How the original packs ids into rows, read from its built packers as data and proven against `generate_preprocess`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from kexport.converter.tokenizers.proof_strings import ORDINARY
from kexport.converter.tokenizers.registry import NO_TOKENIZER_HINT
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import Packer
from kexport.runtime.prompt_forms import BUFFER, FORMS, split
from kexport.runtime.tokenizer import pack_rows

PROVEN_LENGTHS = (6, 24)
_EMPTY_TEXT = ""


def read_packers(preprocessor: Any) -> dict[str, Packer]:
    """`prompt` for causal models, `encoder` and `decoder` for seq2seq.

    The preprocessor is built if it was not (as its own first call would do).

    Raises:
        UnsupportedError: KX443, packing that is not start ids, ids, end ids, padding.
    """
    if not preprocessor.built:
        preprocessor.build(None)
    if getattr(preprocessor, "encoder_packer", None) is not None:
        return {
            "encoder": _encoder_packer(preprocessor),
            "decoder": _packer(preprocessor, preprocessor.decoder_packer, with_end=False),
        }
    return {"prompt": _packer(preprocessor, getattr(preprocessor, "packer", None), with_end=False)}


def prove_packing(preprocessor: Any, packers: Mapping[str, Packer]) -> None:
    """Compares the runtime's packing with the preprocessor's own `generate_preprocess`, on short (cut) and longer (padded) rows.

    Raises:
        UnsupportedError: KX442, naming the first text whose row differs.
    """
    if splits_prompts(preprocessor):
        _prove_splitting(preprocessor, packers["prompt"])
        return
    texts = [_EMPTY_TEXT, *ORDINARY]
    plain = [[int(token) for token in row] for row in preprocessor.tokenizer.tokenize(texts)]
    for length in PROVEN_LENGTHS:
        for role, packer, ids, mask in _original_rows(preprocessor, packers, texts, length):
            packed = pack_rows(plain, packer, length)
            same = (packed.ids == np.asarray(ids)).all(1) & (packed.mask == np.asarray(mask)).all(1)
            if not same.all():
                raise _own_way(preprocessor, f"the {role} text {texts[int(same.argmin())]!r} at length {length}")


def splits_prompts(preprocessor: Any) -> bool:
    """Whether `generate_preprocess` gives all but the prompt's last token apart from the buffer (RWKV)."""
    encoder = getattr(preprocessor, "encoder_packer", None)
    return encoder is None and BUFFER[0] in preprocessor.generate_preprocess([ORDINARY[0]], sequence_length=PROVEN_LENGTHS[0])


def _prove_splitting(preprocessor: Any, packer: Packer) -> None:
    """Prompts of one token, and such that are cut on the left; the original fails on empty ones."""
    ordinary = [[int(token) for token in row] for row in preprocessor.tokenizer.tokenize([*ORDINARY, " ".join(ORDINARY) * 2])]
    texts = list(preprocessor.tokenizer.detokenize([*ordinary, ordinary[0][:1]]))
    plain = [[int(token) for token in row][-packer.sequence_length :] for row in preprocessor.tokenizer.tokenize(texts)]
    for new_tokens in (0, *PROVEN_LENGTHS):
        original = preprocessor.generate_preprocess(texts, sequence_length=new_tokens)
        for name, array in FORMS["split"].prompt_arrays(split(plain, new_tokens, packer.sequence_length)).items():
            if not np.array_equal(array, np.asarray(original[name])):
                raise _own_way(preprocessor, f"`{name}` for {new_tokens} new tokens")


def _own_way(preprocessor: Any, what: str) -> UnsupportedError:
    return UnsupportedError("KX442", f"`{type(preprocessor).__name__}` packs {what} in a way of its own", hint=NO_TOKENIZER_HINT)


def _original_rows(preprocessor: Any, packers: Mapping[str, Packer], texts: list[str], length: int) -> list[tuple[str, Packer, Any, Any]]:
    if "prompt" in packers:
        rows = preprocessor.generate_preprocess(texts, sequence_length=length)
        return [("prompt", packers["prompt"], rows["token_ids"], rows["padding_mask"])]
    rows = _both_sides(preprocessor, texts, length)
    return [(role, packers[role], rows[f"{role}_token_ids"], rows[f"{role}_padding_mask"]) for role in ("encoder", "decoder")]


def _both_sides(preprocessor: Any, texts: list[str], length: int) -> Any:
    """The original's rows for encoder and decoder. T5Gemma packs encoder texts to the preprocessor's own length, whatever it is asked for."""
    own = preprocessor.encoder_sequence_length
    preprocessor.encoder_sequence_length = length
    try:
        inputs = {"encoder_text": texts, "decoder_text": texts}
        return preprocessor.generate_preprocess(inputs, encoder_sequence_length=length, decoder_sequence_length=length)
    finally:
        preprocessor.encoder_sequence_length = own


def _encoder_packer(preprocessor: Any) -> Packer:
    """The encoder's, with what `generate_preprocess` has it put around a text: T5Gemma's packer has a start and an end that prompts do not get."""
    packer = _packer(preprocessor, preprocessor.encoder_packer, with_end=True)
    (plain,) = ([int(token) for token in row] for row in preprocessor.tokenizer.tokenize([ORDINARY[0]]))
    length = len(packer.start) + len(plain) + len(packer.end)
    rows = _both_sides(preprocessor, [ORDINARY[0]], length)
    seen = np.asarray(rows["encoder_token_ids"])[0][np.asarray(rows["encoder_padding_mask"])[0]].tolist()
    for start, end in itertools.product((packer.start, ()), (packer.end, ())):
        if seen == [*start, *plain, *end]:
            return msgspec.structs.replace(packer, start=start, end=end)
    raise _own_way(preprocessor, f"the encoder text {ORDINARY[0]!r}")


def _packer(preprocessor: Any, packer: Any, *, with_end: bool) -> Packer:
    """A packer's start, end and padding. One of several segments that separates them by nothing packs a prompt, its only segment, in the same way."""
    name = type(packer).__name__
    if name != "StartEndPacker" and not (name == "MultiSegmentPacker" and not _ids(packer.sep_value)):
        found = "no packer" if packer is None else f"a `{name}`"
        raise UnsupportedError("KX443", f"`{type(preprocessor).__name__}` packs its text with {found}, in a way of its own", hint=NO_TOKENIZER_HINT)
    return Packer(
        start=_ids(packer.start_value),
        end=_ids(packer.end_value) if with_end else (),
        pad=int(packer.pad_value or 0),
        sequence_length=int(packer.sequence_length),
        padding_side=getattr(packer, "padding_side", "right"),
    )


def _ids(values: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(int(value) for value in values or ())
