"""A KerasHub preprocessor becomes the artifact's tokenizer files, proven equal, and the manifest's record of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kexport.converter.tokenizers.packing import prove_packing, read_packers
from kexport.converter.tokenizers.proof import Evidence, prove
from kexport.converter.tokenizers.proof_strings import HARD, ORDINARY
from kexport.converter.tokenizers.registry import NO_TOKENIZER_HINT, Rendering, renderings_of
from kexport.converter.tokenizers.stop_ids import tokenizer_stop_ids
from kexport.runtime.contract.errors import KexportError, UnsupportedError
from kexport.runtime.contract.manifest import Tokenizer
from kexport.runtime.tokenizer import open_tokenizer
from msgspec import structs

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
FIXTURE_FILE = "tokenizer_fixture.json"
FIXTURE_RANDOM_SAMPLE = 200
_ATTRIBUTES = {"bos": "start_token_id", "eos": "end_token_id", "pad": "pad_token_id"}
_UNKNOWN_SPELLINGS = ("<unk>", "[UNK]")


def export_tokenizer(preprocessor: Any, directory: Path | str, *, stop_token_ids: Sequence[int] | None = None) -> Tokenizer:
    """Writes the tokenizer of a KerasHub preprocessor into `directory` and proves the files.

    Files: `tokenizer.json` (or `tokenizer.spm`), `tokenizer_config.json`, `special_tokens_map.json`, `tokenizer_fixture.json`.
    `stop_token_ids`: what the model's `generate()` resolves `"auto"` to (`resolve_stop_token_ids`); default: the tokenizer's end ids.

    Raises:
        UnsupportedError: KX440 no export for this tokenizer, KX441 the written file differs, KX442/KX443 unknown packing.
    """
    directory = Path(directory)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is None:
        raise UnsupportedError("KX440", f"`{type(preprocessor).__name__}` has no tokenizer", hint=NO_TOKENIZER_HINT)
    proposal = Tokenizer(
        kind="tokenizers",
        file="",
        vocabulary_size=int(tokenizer.vocabulary_size()),
        packers=read_packers(preprocessor),
        stripped_ids=stripped_ids(preprocessor),
        stop_token_ids=tuple(stop_token_ids) if stop_token_ids is not None else tokenizer_stop_ids(tokenizer),
        special_tokens=special_tokens(tokenizer),
        fixture=FIXTURE_FILE,
    )
    rendering, record, evidence = _write_first_proven(tokenizer, directory, proposal)
    prove_packing(preprocessor, record.packers)
    _write_vendor_files(tokenizer, directory, rendering, record)
    _write_json(directory / FIXTURE_FILE, {"pairs": _fixture_pairs(evidence)})
    return record


def stripped_ids(preprocessor: Any) -> tuple[int, ...]:
    """The special ids that `generate_postprocess` leaves out of texts: all but those it is seen to print (Gemma 3 keeps the user's image marks)."""
    tokenizer = preprocessor.tokenizer
    special = sorted({int(identifier) for identifier in tokenizer.special_token_ids})
    prefix = "decoder_" if hasattr(preprocessor, "decoder_sequence_length") else ""
    rows = np.asarray(special, np.int32)[:, None]
    shown = preprocessor.generate_postprocess({f"{prefix}token_ids": rows, f"{prefix}padding_mask": np.ones_like(rows, bool)})
    empty = tokenizer.detokenize([[]])[0]
    return tuple(identifier for identifier, text in zip(special, shown, strict=True) if text == empty or text != tokenizer.detokenize([[identifier]])[0])


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """The ids of `bos`, `eos`, `pad` and `unk`, as far as the tokenizer has them."""
    found = {name: getattr(tokenizer, attribute, None) for name, attribute in _ATTRIBUTES.items()}
    found["unk"] = _unknown_id(tokenizer)
    return {name: int(identifier) for name, identifier in found.items() if identifier is not None}


def _unknown_id(tokenizer: Any) -> int | None:
    declared = getattr(tokenizer, "unk_token_id", getattr(tokenizer, "_unk_token_id", None))
    if declared is not None:
        return int(declared)
    vocabulary = tokenizer.get_vocabulary()
    spelling = next((token for token in _UNKNOWN_SPELLINGS if token in vocabulary), None)
    return None if spelling is None else int(tokenizer.token_to_id(spelling))


def _write_first_proven(tokenizer: Any, directory: Path, proposal: Tokenizer) -> tuple[Rendering, Tokenizer, Evidence]:
    """Writes the preferred rendering; where the runtime does not read it as the original, the next one. The first one's error is raised."""
    first_error: KexportError | None = None
    for rendering in renderings_of(tokenizer):
        path = directory / rendering.file
        path.write_bytes(rendering.content)
        record = structs.replace(proposal, kind=rendering.kind, file=rendering.file, piece_decoder=rendering.piece_decoder)
        try:
            evidence = prove(tokenizer, open_tokenizer(directory, record))
        except KexportError as error:
            path.unlink()
            first_error = first_error or error
        else:
            return rendering, structs.replace(record, proven_strings=len(evidence.texts)), evidence
    assert first_error is not None, "a tokenizer with a renderer has at least one rendering"
    raise first_error


def _fixture_pairs(evidence: Evidence) -> list[dict[str, Any]]:
    """All hand-written strings and a slice of the others, each with the original's ids."""
    by_hand = {*ORDINARY, *HARD}
    pairs = [{"text": text, "ids": list(ids)} for text, ids in zip(evidence.texts, evidence.ids, strict=True)]
    others = [pair for pair in pairs if pair["text"] not in by_hand]
    step = max(1, len(others) // FIXTURE_RANDOM_SAMPLE)
    return [pair for pair in pairs if pair["text"] in by_hand] + others[::step]


def _write_vendor_files(tokenizer: Any, directory: Path, rendering: Rendering, record: Tokenizer) -> None:
    """What vendors' runtimes read beside the tokenizer file; none where they cannot read the file itself."""
    if not rendering.vendor_class:
        return
    special = record.special_tokens
    reserved = {*record.stripped_ids, special.get("unk")}  # a pad id that is an ordinary token stays ordinary
    names = {f"{name}_token": str(tokenizer.id_to_token(identifier)) for name, identifier in special.items() if identifier in reserved}
    config = {
        "tokenizer_class": rendering.vendor_class,
        **names,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max(packer.sequence_length for packer in record.packers.values()),
    }
    _write_json(directory / CONFIG_FILE, config)
    _write_json(directory / SPECIAL_TOKENS_FILE, names)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
