"""Whether the vendors' runtimes' own tokenizers read the written files the same way, for the manifest's `runtimes`.

A runtime whose tokenizer can be asked registers an opener: artifact directory -> a function from text to ids.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from kexport.converter.tokenizers.export import CONFIG_FILE, SPECIAL_TOKENS_FILE
from kexport.converter.tokenizers.proof_strings import ORDINARY
from kexport.converter.tokenizers.sentence_piece import MODEL_FILE
from kexport.runtime.native_output import captured_stderr

ORT_GENAI = "onnxruntime-genai"
OPENVINO_GENAI = "openvino-genai"
LITERT_LM = "litert-lm"
Encode = Callable[[str], list[int]]
TOKENIZERS_FILE = "tokenizer.json"
_READ_FILES = (TOKENIZERS_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE)
_SHOWN_STRINGS = 3
PROBE_VOCABULARY = 8  # of a model that is never run
_MINIMAL_CONFIG = {"model": {"type": "decoder", "vocab_size": 1, "context_length": 1, "decoder": {"filename": "model.onnx"}}, "search": {}}


@contextmanager
def _ort_genai(directory: Path) -> Iterator[Encode]:
    import onnxruntime_genai as genai

    with tempfile.TemporaryDirectory() as temporary:
        for name in _READ_FILES:
            if (directory / name).exists():
                shutil.copy(directory / name, Path(temporary) / name)
        (Path(temporary) / "genai_config.json").write_text(json.dumps(_MINIMAL_CONFIG))
        tokenizer = genai.Tokenizer(temporary)
        yield lambda text: [int(token) for token in tokenizer.encode(text)]


@contextmanager
def _openvino_genai(directory: Path) -> Iterator[Encode]:
    """The tokenizer model itself, which its pipeline runs."""
    import openvino
    import openvino_tokenizers  # noqa: F401  makes the tokenizer's operators known to openvino

    model = openvino.Core().compile_model(str(directory / "openvino_tokenizer.xml"), "CPU")
    yield lambda text: [int(token) for token in model([text])["input_ids"][0]]


@contextmanager
def _litert_lm(directory: Path) -> Iterator[Encode]:
    """Its engine, on the artifact's tokenizer and the smallest model: the real one would be loaded for nothing."""
    import litert_lm
    from kexport.targets.tflite.probe import write_probe

    tokenizer = next(directory / name for name in (TOKENIZERS_FILE, MODEL_FILE) if (directory / name).exists())
    with tempfile.TemporaryDirectory() as temporary, captured_stderr():
        bundle = Path(temporary) / "probe.litertlm"
        write_probe(bundle, tokenizer, PROBE_VOCABULARY)
        litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
        engine = litert_lm.Engine(str(bundle), backend=litert_lm.Backend.CPU(thread_count=1), cache_dir=":nocache")
        try:
            yield lambda text: [int(token) for token in engine.tokenize(text)]
        finally:
            engine.close()


# runtime -> the file its tokenizer is read from, and how to ask it
_OPENERS: dict[str, tuple[str, Callable[[Path], AbstractContextManager[Encode]]]] = {
    ORT_GENAI: (TOKENIZERS_FILE, _ort_genai),
    OPENVINO_GENAI: ("openvino_tokenizer.xml", _openvino_genai),
    LITERT_LM: ("model.litertlm", _litert_lm),
}


def vendor_tokenizer_difference(
    directory: Path | str, fixture: str, *, runtime: str = ORT_GENAI, prompt_start: Sequence[int] = ()
) -> str:
    """Compares a vendor runtime's tokenizer with the fixture's ids: "" if all are equal or the runtime has none, else what differs.

    `directory` holds the tokenizer files; `fixture` is the fixture's file name in it. `prompt_start`: ids that the tokenizer may put in
    front by itself, as the original's preprocessor does. Ordinary strings that differ are named first, then hard ones. Also says so when
    the package is not installed or refuses the files.
    """
    if runtime not in _OPENERS:
        return ""
    directory = Path(directory)
    pairs: list[dict[str, Any]] = json.loads((directory / fixture).read_text(encoding="utf-8"))["pairs"]
    file, opener = _OPENERS[runtime]
    if not (directory / file).exists():
        return f"there is no {file} for it to read" if file == TOKENIZERS_FILE else ""  # why a model is not made, its target says
    start = list(prompt_start)
    try:
        with opener(directory) as encode:
            differing = [pair["text"] for pair in pairs if not _same(encode(pair["text"]), pair["ids"], start)]
    except ImportError:
        return f"not checked: {runtime} is not installed"
    except RuntimeError as error:
        return f"its tokenizer refuses the files: {error}"
    return _report(differing, len(pairs))


def _same(got: list[int], ids: list[int], start: list[int]) -> bool:
    return got in (ids, [*start, *ids])


def _report(differing: Iterable[str], compared: int) -> str:
    differing = list(differing)
    if not differing:
        return ""
    ordinary = [text for text in differing if text in ORDINARY]
    shown = ", ".join(repr(text) for text in (ordinary + [text for text in differing if text not in ORDINARY])[:_SHOWN_STRINGS])
    kind = f"{len(ordinary)} ordinary" if ordinary else "no ordinary"
    return f"its tokenizer gives other ids for {len(differing)} of {compared} strings ({kind} ones), e.g. {shown}"
