"""SentencePiece tokenizers: BPE models become a `tokenizers` file, every kind can also ship as the model itself (`tokenizer.spm`).

BPE in SentencePiece joins the neighbours whose joined piece has the highest score; the file says the same with an ordered list of merges.
What the file must not do: join pieces that only match as a whole (user-defined symbols), match control and unknown pieces inside text,
or match a symbol spelled with literal spaces (SentencePiece has escaped the spaces by then). Anything else it cannot say (suffix
spaces, unused pieces, a model that is not BPE) is left to `tokenizer.spm`. Unigram models were tried: `tokenizers` breaks ties between
segmentations otherwise and normalizes some characters otherwise, so that the proof fails for T5's kind even with control pieces out of reach.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from kexport.converter.tokenizers.registry import NO_TOKENIZER_HINT, Rendering, renders
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import PieceDecoder
from kexport.runtime.piece_decoder import SPACE_SYMBOL

FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.spm"
BYTE_COUNT = 256
_BPE = 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)


@renders("SentencePieceTokenizer")
def render_sentence_piece(tokenizer: Any) -> list[Rendering]:
    """`tokenizer.json` where the model is BPE and can be said in that format, then the model file itself."""
    if tokenizer.add_bos or tokenizer.add_eos:
        raise UnsupportedError(
            "KX440",
            f"`{type(tokenizer).__name__}` adds start or end ids by itself (add_bos, add_eos)",
            hint="let the preprocessor add them, or " + NO_TOKENIZER_HINT,
        )
    model = parse_model(tokenizer.proto)
    # The library decodes its own file; the rules tell a stream which text is certain. They do not know spaces behind pieces.
    rules = None if model.trainer_spec.treat_whitespace_as_suffix else piece_decoder(model)
    renderings = [Rendering(kind="sentencepiece", file=MODEL_FILE, content=tokenizer.proto, piece_decoder=rules)]
    if model.trainer_spec.model_type == _BPE and not _beyond_the_file(model):
        content = json.dumps(_document(model), ensure_ascii=False, indent=1).encode()
        preferred = Rendering(
            kind="tokenizers", file=FILE, content=content, piece_decoder=piece_decoder(model), vendor_class="PreTrainedTokenizerFast"
        )
        renderings.insert(0, preferred)
    return renderings


def parse_model(proto: bytes) -> Any:
    """The SentencePiece model as its protobuf message. Raises InvalidInputError KX431 if the bytes are not one."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(proto)
    except DecodeError as error:
        raise InvalidInputError(
            "KX431", "the SentencePiece vocabulary is not a SentencePiece model", hint="fetch or save the preset again", detail=str(error)
        ) from error
    return model


def piece_decoder(model: Any) -> PieceDecoder:
    """SentencePiece's decoding rules for this model, as data for the runtime."""
    pieces = model.pieces
    bytes_at = {piece.piece: index for index, piece in enumerate(pieces) if piece.type == _BYTE}
    byte_ids = tuple(bytes_at[_byte_piece(value)] for value in range(BYTE_COUNT)) if len(bytes_at) == BYTE_COUNT else ()
    normalizer = model.normalizer_spec
    leading: Literal["strip-all", "strip-one", "keep"] = (
        "strip-all" if normalizer.remove_extra_whitespaces else "strip-one" if normalizer.add_dummy_prefix else "keep"
    )
    return PieceDecoder(
        control_ids=tuple(index for index, piece in enumerate(pieces) if piece.type == _CONTROL),
        unknown_id=_unknown_id(model),
        unknown_surface=model.trainer_spec.unk_surface,
        byte_ids=byte_ids,
        leading_space=leading,
    )


def _beyond_the_file(model: Any) -> bool:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    unused = any(piece.type == _UNUSED for piece in model.pieces)
    return bool(unused or trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces)


def _byte_piece(value: int) -> str:
    return f"<0x{value:02X}>"


def _unknown_id(model: Any) -> int:
    return next(index for index, piece in enumerate(model.pieces) if piece.type == _UNKNOWN)


def _document(model: Any) -> dict[str, Any]:
    """The `tokenizers` file as a JSON object."""
    unknown = model.pieces[_unknown_id(model)].piece
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(model),
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(model)},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": bool(model.trainer_spec.byte_fallback),
            "ignore_merges": False,
            "vocab": {piece.piece: index for index, piece in enumerate(model.pieces)},
            "merges": _merges(model),
        },
    }


def _added_tokens(model: Any) -> list[dict[str, Any]]:
    """User-defined symbols, matched on the escaped text as SentencePiece does; one with a literal space never matches and stays out."""
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": not model.normalizer_spec.add_dummy_prefix,
        "special": False,
    }
    return [
        {"id": index, "content": piece.piece, **flags}
        for index, piece in enumerate(model.pieces)
        if piece.type == _USER_DEFINED and " " not in piece.piece
    ]


def _merges(model: Any) -> list[list[str]]:
    """Every way to join two pieces into a third, the best score first; ties by the ids of the two."""
    score = {piece.piece: piece.score for piece in model.pieces if piece.type == _NORMAL}
    identifier = {piece.piece: index for index, piece in enumerate(model.pieces)}
    joins = [
        (-score[whole], identifier[left], identifier[right], left, right)
        for whole in score
        for left, right in _splits(whole)
        if left in score and right in score
    ]
    return [[left, right] for *_, left, right in sorted(joins)]


def _splits(piece: str) -> list[tuple[str, str]]:
    return [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]


def _normalizers(model: Any) -> list[dict[str, Any]]:
    specification = model.normalizer_spec
    steps: list[dict[str, Any]] = []
    if specification.precompiled_charsmap:
        import base64

        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(specification.precompiled_charsmap).decode()})
    if specification.remove_extra_whitespaces:
        steps.append({"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if specification.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE_SYMBOL})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE_SYMBOL})
    return steps


def _decoders(model: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE_SYMBOL}, "content": " "}]
    if model.trainer_spec.byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if model.normalizer_spec.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps
