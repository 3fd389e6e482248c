"""How the original packs ids into rows, read from its built packers as data and proven against `generate_preprocess`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from kexport.converter.tokenizers.proof_strings import ORDINARY
from kexport.converter.tokenizers.registry import NO_TOKENIZER_HINT
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import Packer
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
            "encoder": _packer(preprocessor, preprocessor.encoder_packer, with_end=True),
            "decoder": _packer(preprocessor, preprocessor.decoder_packer, with_end=False),
        }
    return {"prompt": _packer(preprocessor, getattr(preprocessor, "packer", None), with_end=False)}


def prove_packing(preprocessor: Any, packers: Mapping[str, Packer]) -> None:
    """Compares the runtime's packing with the preprocessor's own `generate_preprocess`, on short (cut) and longer (padded) rows.

    Raises:
        UnsupportedError: KX442, naming the first text whose row differs.
    """
    texts = [_EMPTY_TEXT, *ORDINARY]
    plain = [[int(token) for token in row] for row in preprocessor.tokenizer.tokenize(texts)]
    for length in PROVEN_LENGTHS:
        for role, packer, ids, mask in _original_rows(preprocessor, packers, texts, length):
            packed = pack_rows(plain, packer, length)
            same = (packed.ids == np.asarray(ids)).all(1) & (packed.mask == np.asarray(mask)).all(1)
            if not same.all():
                text = texts[int(same.argmin())]
                raise UnsupportedError(
                    "KX442",
                    f"`{type(preprocessor).__name__}` packs the {role} text {text!r} at length {length} in a way of its own",
                    hint=NO_TOKENIZER_HINT,
                )


def _original_rows(preprocessor: Any, packers: Mapping[str, Packer], texts: list[str], length: int) -> list[tuple[str, Packer, Any, Any]]:
    if "prompt" in packers:
        rows = preprocessor.generate_preprocess(texts, sequence_length=length)
        return [("prompt", packers["prompt"], rows["token_ids"], rows["padding_mask"])]
    inputs = {"encoder_text": texts, "decoder_text": texts}
    rows = preprocessor.generate_preprocess(inputs, encoder_sequence_length=length, decoder_sequence_length=length)
    return [(role, packers[role], rows[f"{role}_token_ids"], rows[f"{role}_padding_mask"]) for role in ("encoder", "decoder")]


def _packer(preprocessor: Any, packer: Any, *, with_end: bool) -> Packer:
    if type(packer).__name__ == "MultiSegmentPacker" and not with_end:
        return _segment_packer(packer)
    if type(packer).__name__ != "StartEndPacker":
        found = "no packer" if packer is None else f"a `{type(packer).__name__}`"
        raise UnsupportedError(
            "KX443", f"`{type(preprocessor).__name__}` packs its text with {found}, not with a StartEndPacker", hint=NO_TOKENIZER_HINT
        )
    return Packer(
        start=_ids(packer.start_value),
        end=_ids(packer.end_value) if with_end else (),
        pad=int(packer.pad_value or 0),
        sequence_length=int(packer.sequence_length),
        padding_side=packer.padding_side,
    )


def _segment_packer(packer: Any) -> Packer:
    """How a packer of several segments packs one, without end ids, as `generate_preprocess` asks it to."""
    return Packer(
        start=_ids(packer.start_value), pad=int(packer.pad_value or 0), sequence_length=int(packer.sequence_length), padding_side=packer.padding_side
    )


def _ids(values: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(int(value) for value in values or ())
