"""Options that only some targets have are refused for the others before any work."""

from __future__ import annotations

from typing import Any

import pytest
from kexport.converter.options import make_options
from kexport.runtime.contract.errors import UnsupportedError, UsageError


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"target": "onnx", "package": "litertlm"}, "KX108"),
        ({"target": "onnx", "prefill_buckets": (16,)}, "KX108"),
        ({"target": "tflite", "prefill_buckets": (16, 0)}, "KX107"),
        ({"target": "tflite", "package": "zip"}, "KX104"),
        ({"target": "tflite", "dtype": "bfloat16"}, "KX219"),
    ],
)
def test_refused(given: dict[str, Any], code: str) -> None:
    """By name of the option, with a way out."""
    with pytest.raises((UsageError, UnsupportedError)) as caught:
        make_options(**given)
    assert caught.value.code == code and caught.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"target": "tflite", "package": "litertlm", "prefill_buckets": (16, 128), "dtype": "float16"},
        {"target": "tflite", "package": "tflite"},
        {"target": "all", "prefill_buckets": (16,), "package": "litertlm"},
    ],
)
def test_taken(given: dict[str, Any]) -> None:
    """With the target that has them, alone or among all."""
    options = make_options(**given)
    assert {name: getattr(options, name) for name in given} == given


@pytest.mark.parametrize("given", [{"signatures": ("hidden_states", "score")}, {"task": "backbone"}])
def test_a_bundle_for_litert_lm_has_no_whole_rows(given: dict[str, Any]) -> None:
    """Known before any work; other targets beside it go on."""
    with pytest.raises(UnsupportedError) as caught:
        make_options(target="tflite", package="litertlm", **given)
    assert caught.value.code == "KX236"
    make_options(target="tflite,onnx", package="litertlm", **given)
    make_options(target="tflite", **given)
