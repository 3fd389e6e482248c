"""`openvino_tokenizer.xml` and `openvino_detokenizer.xml`: the artifact's tokenizer.json as models that OpenVINO GenAI runs.

Made by openvino_tokenizers, which reads a Hugging Face tokenizer object and therefore needs transformers, at conversion only. Prompts
are padded on the left, as the decoder wants them, and start with the ids that the original puts in front of every prompt.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino as ov
from kexport.runtime.contract.manifest import File
from kexport.targets.openvino.ir_file import file_record, name_operators

TOKENIZER, DETOKENIZER = "openvino_tokenizer", "openvino_detokenizer"
SOURCE = "tokenizer.json"
# Splits nowhere; without a step of this kind the model that openvino_tokenizers makes does not fit its own operator.
NO_SPLIT = {"type": "Split", "pattern": {"Regex": "(?!)"}, "behavior": "Isolated", "invert": False}
SPECIAL_TOKENS = "special_tokens_map.json"


def write_tokenizer(directory: Path, prompt_start: Sequence[int] = ()) -> tuple[tuple[File, ...], str]:
    """Write both models from the tokenizer.json in `directory`. Returns their records, and why there are none.

    `prompt_start`: the ids in front of every prompt.
    """
    if not (directory / SOURCE).exists():
        return (), f"there is no {SOURCE} to make its tokenizer from"
    try:
        from openvino_tokenizers import convert_tokenizer
    except ImportError as error:
        return (), f"its tokenizer was not made: {error}"
    try:
        models = convert_tokenizer(_hugging_face(directory, prompt_start), with_detokenizer=True)
    except Exception as error:  # noqa: BLE001  the library's refusals have no common base; the artifact is whole without these files
        return (), f"openvino_tokenizers refuses the tokenizer: {(str(error).splitlines() or [type(error).__name__])[0]}"
    files: list[File] = []
    for name, model in zip((TOKENIZER, DETOKENIZER), models, strict=True):
        files += _save(model, directory / f"{name}.xml")
    return tuple(files), ""


def _hugging_face(directory: Path, prompt_start: Sequence[int]) -> Any:
    """The tokenizer as transformers has it. Of the named special tokens only those that the tokenizer splits a text at: transformers would
    make it split at the others too. Where it splits at none, at those that never stand in a text by accident: the library needs one."""
    import tokenizers
    from tokenizers.processors import TemplateProcessing
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it says that PyTorch is missing, which nobody here needs
    from transformers import PreTrainedTokenizerFast

    document = json.loads((directory / SOURCE).read_text(encoding="utf-8"))
    document["pre_tokenizer"] = document.get("pre_tokenizer") or NO_SPLIT
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(_with_patterns(document)))
    if prompt_start:
        start = [tokenizer.id_to_token(int(token)) for token in prompt_start]
        ids = [(token, int(number)) for token, number in zip(start, prompt_start, strict=True)]
        tokenizer.post_processor = TemplateProcessing(single=[*start, "$A"], special_tokens=ids)
    named = directory / SPECIAL_TOKENS
    special = json.loads(named.read_text(encoding="utf-8")) if named.exists() else {}
    added = {token["content"] for token in document.get("added_tokens", ())}
    unknown = special.get("unk_token")
    special = {name: token for name, token in special.items() if token in added or (not added and token != unknown)}
    make: Any = PreTrainedTokenizerFast  # without types in some releases
    return make(tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **special)


def _with_patterns(part: Any) -> Any:
    """The document with literal texts to split at written as patterns: openvino_tokenizers takes every text for a pattern."""
    if isinstance(part, list):
        return [_with_patterns(item) for item in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Split" and "String" in part.get("pattern", {}):
        return {**part, "pattern": {"Regex": re.escape(part["pattern"]["String"])}}
    return {key: item if key == "model" else _with_patterns(item) for key, item in part.items()}


def _save(model: ov.Model, path: Path) -> list[File]:
    name_operators(model)
    ov.save_model(model, str(path), compress_to_fp16=False)
    return [file_record(path), file_record(path.with_suffix(".bin"))]
