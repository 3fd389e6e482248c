"""openvino_genai runs the files unmodified, on both of its backends; where it cannot, the verdict says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from kexport.targets.openvino import write_vendor_files
from openvino._offline_transformations import paged_attention_transformation

from tests.targets.onnx.test_genai import greedy
from tests.targets.onnx.toys import CAPACITY, Toy, decoder, encoder
from tests.targets.openvino.runs import EXACT, Files, write

genai = pytest.importorskip("openvino_genai")

PROMPT = [3, 17, 5, 40, 22]
LAST_ID = 60
GEMMA2: dict[str, Any] = {
    "softcap": 4.0, "windows": (4, None), "offset": 1.0, "final_softcap": 30.0, "kv_heads": 1, "activation": "gelu",
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"windows": (4,)},
    "gemma": {"offset": 1.0, "kv_heads": 1, "activation": "gelu"},
    "bloom": {"alibi": True, "rope": False, "activation": "gelu", "kv_heads": 4},
    "positions": {"rope": False, "learned_positions": True},
    "mixed windows": {"windows": (4, None)},
    "head size 20": {"head_dim": 20},
    "experts": {"experts": 6, "windows": (4,)},
    "experts with biases": {"experts": 7, "taken": 3, "experts_form": "gpt-oss"},
}
WINDOW_INPUT, SLOPES_INPUT = 10, 11  # of PagedAttentionExtension


def by_genai(directory: Path, prompt: list[int], backend: str) -> list[int]:
    """The prompt and the greedy tokens of openvino_genai behind it."""
    pipeline = genai.LLMPipeline(str(directory), "CPU", **EXACT, ATTENTION_BACKEND=backend)
    ids = genai.TokenizedInputs(ov.Tensor(np.array([prompt], np.int64)), ov.Tensor(np.ones((1, len(prompt)), np.int64)))
    return [*prompt, *(int(token) for token in pipeline.generate(ids, pipeline.get_generation_config()).tokens[0])]


def expected_tokens(files: Files) -> list[int]:
    """Greedy tokens by the interpreter, up to the capacity."""
    return greedy(files.reference(1), PROMPT, CAPACITY)


@pytest.mark.parametrize("backend", ["SDPA", "PA"])
@pytest.mark.parametrize("name", FAMILIES)
def test_genai_gives_the_interpreters_tokens(name: str, backend: str, tmp_path: Path) -> None:
    """Greedy tokens up to the capacity, with nothing set but full precision."""
    files = write(tmp_path, decoder(Toy(**FAMILIES[name])))
    expected = expected_tokens(files)
    unused = next(token for token in range(LAST_ID, 0, -1) if token not in expected)
    _, runtimes = write_vendor_files(tmp_path, files.emitted, stop_token_ids=[unused])
    assert all(runtime.accepted for runtime in runtimes)
    assert len(set(expected[len(PROMPT) :])) > 3
    assert by_genai(tmp_path, PROMPT, backend) == expected


@pytest.mark.parametrize(
    ("feature", "off"), [({"windows": (2,)}, {}), ({"alibi": True, "rope": False}, {"rope": False})], ids=["window", "slopes"]
)
@pytest.mark.parametrize("backend", ["SDPA", "PA"])
def test_tokens_show_the_feature(feature: dict[str, Any], off: dict[str, Any], backend: str, tmp_path: Path) -> None:
    """Without its window or slopes the same model gives other tokens: a backend that dropped them would be seen."""
    files = write(tmp_path, decoder(Toy(**feature)))
    write_vendor_files(tmp_path, files.emitted)
    with_it = by_genai(tmp_path, PROMPT, backend)
    assert with_it == expected_tokens(files)[: len(with_it)]
    assert with_it != greedy(write(tmp_path, decoder(Toy(**off))).reference(1), PROMPT, CAPACITY)[: len(with_it)]


@pytest.mark.parametrize(
    ("options", "window", "slopes"),
    [({}, False, False), ({"windows": (4,)}, True, False), ({"alibi": True, "rope": False}, False, True)],
    ids=["plain", "window", "slopes"],
)
def test_paged_attention_reads_window_and_slopes(options: dict[str, Any], window: bool, slopes: bool, tmp_path: Path) -> None:
    """The conversion finds them in the mask: a form that it does not know would be dropped without a word."""
    model = write(tmp_path, decoder(Toy(**options))).model()
    paged_attention_transformation(model)
    pages = [node for node in model.get_ordered_ops() if node.get_type_name() == "PagedAttentionExtension"]
    assert len(pages) == 2
    for node in pages:
        given = node.input_value(WINDOW_INPUT).get_node()
        assert (given.get_type_name() != "Constant" or bool(np.any(given.get_data()))) == window
        assert list(node.input_value(SLOPES_INPUT).get_partial_shape().to_shape()) == ([4] if slopes else [0])


def test_softcap_runs_on_the_other_backend_only(tmp_path: Path) -> None:
    """The verdict names layer and reason; the default backend runs it."""
    files = write(tmp_path, decoder(Toy(**GEMMA2)))
    expected = expected_tokens(files)
    unused = next(token for token in range(LAST_ID, 0, -1) if token not in expected)
    _, runtimes = write_vendor_files(tmp_path, files.emitted, stop_token_ids=[unused])
    verdicts = {runtime.name: runtime for runtime in runtimes}
    assert verdicts["openvino-genai"].accepted
    paged = verdicts["openvino-genai (paged attention)"]
    assert not paged.accepted and "softcap" in paged.reason and "layer0.attention" in paged.reason
    assert by_genai(tmp_path, PROMPT, "SDPA") == expected
    with pytest.raises(RuntimeError, match="ScaledDotProductAttention"):
        by_genai(tmp_path, PROMPT, "PA")


def test_window_with_slopes_is_not_for_paged_attention(tmp_path: Path) -> None:
    """It reads the one or the other."""
    files = write(tmp_path, decoder(Toy(alibi=True, rope=False, windows=(4,))))
    _, runtimes = write_vendor_files(tmp_path, files.emitted)
    assert [runtime.accepted for runtime in runtimes] == [True, True, False]


def test_generation_stops_at_every_stop_id(tmp_path: Path) -> None:
    """All stop ids stand in generation_config.json, with the length that the artifact serves."""
    files = write(tmp_path, decoder(Toy(windows=(4,))))
    expected = expected_tokens(files)
    stop, unused = expected[len(PROMPT) + 6], next(token for token in range(LAST_ID, 0, -1) if token not in expected)
    write_vendor_files(tmp_path, files.emitted, stop_token_ids=[unused, stop, stop], start_token_id=1, pad_token_id=0)
    config = json.loads((tmp_path / "generation_config.json").read_text())
    assert config == {"eos_token_id": [unused, stop], "bos_token_id": 1, "pad_token_id": 0, "max_length": CAPACITY, "do_sample": False}
    first = expected.index(stop, len(PROMPT))
    for backend in ("SDPA", "PA"):
        got = by_genai(tmp_path, PROMPT, backend)
        assert got[:first] == expected[:first] and len(got) <= first + 1


def test_without_stop_ids_the_verdict_says_where_genai_stops(tmp_path: Path) -> None:
    """It cannot run without one."""
    files = write(tmp_path, decoder(Toy()))
    _, runtimes = write_vendor_files(tmp_path, files.emitted)
    assert "it stops at id 60" in runtimes[1].reason


def test_seq2seq_is_refused_with_the_reason(tmp_path: Path) -> None:
    """There is no such pipeline; plain OpenVINO runs it."""
    toy = Toy(cross=True, kv_heads=4, rope=False)
    files = write(tmp_path, encoder(toy), decoder(toy))
    _, runtimes = write_vendor_files(tmp_path, files.emitted)
    assert [runtime.accepted for runtime in runtimes] == [True, False, False]
    assert "encoder-decoder" in runtimes[1].reason
