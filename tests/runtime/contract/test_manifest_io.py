"""A manifest survives writing and reading; a damaged, hostile or future one is refused with a code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kexport.runtime.contract.errors import InternalError, InvalidInputError
from kexport.runtime.contract.manifest import (
    Cache,
    CacheSlot,
    File,
    Fusion,
    Manifest,
    Packer,
    ParityCase,
    Producer,
    Signature,
    Source,
    TensorSpec,
    Tokenizer,
)  # fmt: skip
from kexport.runtime.contract.manifest_io import encode_manifest, parse_manifest, read_manifest, write_manifest

EXAMPLE = Manifest(
    producer=Producer(kexport="0.1.0", libraries={"b": "2", "a": "1"}),
    source=Source(handle="größe", class_name="BloomCausalLM", config={"z": 1, "a": [1.5, None, True, {"b": "c"}]}),
    task="causal-lm",
    target="onnx",
    signatures=(Signature(name="extend", file="model.onnx", inputs=(TensorSpec(name="x", dtype="int64", shape=("batch", 1)),), outputs=()),),
    cache=Cache(
        slots=(
            CacheSlot(
                name="self.0", kind="self", num_key_value_heads=1, head_dim=2, value_head_dim=2, dtype="float32", layout=("batch",),
                inputs=("k", "v"), outputs=("pk", "pv"),
            ),
        ),
        layers=(("self.0",),),
    ),
    tokenizer=Tokenizer(kind="tokenizers", file="tokenizer.json", vocabulary_size=5, packers={"prompt": Packer(start=(1,))}),
    fusions=(Fusion(layer="0", form="gqa", fused=True),),
    files=(File(path="model.onnx", bytes=1, sha256="0"), File(path="tokenizer.json", bytes=1, sha256="0")),
)  # fmt: skip


def changed(**changes: Any) -> bytes:
    """The example's JSON with top-level keys set, or removed where the value is Ellipsis."""
    document = json.loads(encode_manifest(EXAMPLE))
    for key, value in changes.items():
        document[key] = value
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


def test_round_trip(tmp_path: Path) -> None:
    """What was written is what is read; equal manifests give equal bytes; the text is readable."""
    assert write_manifest(tmp_path, EXAMPLE) == tmp_path / "kexport.json"
    assert read_manifest(tmp_path) == EXAMPLE
    other = msgspec.structs.replace(EXAMPLE, producer=Producer(kexport="0.1.0", libraries={"a": "1", "b": "2"}))
    assert encode_manifest(other) == encode_manifest(EXAMPLE)
    text = (tmp_path / "kexport.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "format_version": 1,\n  "producer"')
    assert "größe" in text


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "KX502"),
        (b"{", "KX502"),
        (b"\xff\xfe", "KX502"),
        (b"[]", "KX502"),
        (b"null", "KX502"),
        (b'{"format_version": 1, "format_version": 1}', "KX502"),
        (b'{"a": NaN}', "KX502"),
        (b'{"a": -Infinity}', "KX502"),
        (b'{"a": 1e999}', "KX502"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "KX502"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "KX502"),
        (b'{"a": ' * 100_000, "KX502"),
        (b"[" * 1_000_000, "KX502"),
        (b"{}", "KX504"),
        (changed(format_version=2), "KX503"),
        (changed(format_version=10**30), "KX503"),
        (changed(format_version=0), "KX504"),
        (changed(format_version=True), "KX504"),
        (changed(format_version="1"), "KX504"),
        (changed(format_version=...), "KX504"),
        (changed(surprise=1), "KX504"),
        (changed(task="poetry"), "KX504"),
        (changed(target=...), "KX504"),
        (changed(target=7), "KX504"),
        (changed(files=[]), "KX504"),
        (changed(cache={"capacity": -1}), "KX504"),
        (changed(cache={"layers": [["ghost"]]}), "KX504"),
        (changed(files=[{"path": "../x", "bytes": 1, "sha256": ""}]), "KX505"),
        (changed(files=[{"path": "a", "bytes": 1, "sha256": ""}, {"path": "A", "bytes": 1, "sha256": ""}]), "KX505"),
    ],
)  # fmt: skip
def test_refused(data: bytes, code: str) -> None:
    """Every kind of damage has its code and a way out."""
    with pytest.raises(InvalidInputError, match=code) as caught:
        parse_manifest(data)
    assert caught.value.hint


def test_every_cut_is_refused() -> None:
    """No prefix of a manifest is a manifest."""
    data = encode_manifest(EXAMPLE)
    for length in range(0, len(data) - 2, 37):
        with pytest.raises(InvalidInputError):
            parse_manifest(data[:length])


def test_twice_named_records() -> None:
    """Two signatures or slots of one name would make the choice a matter of luck."""
    twice = msgspec.structs.replace(EXAMPLE, signatures=EXAMPLE.signatures * 2)
    with pytest.raises(InvalidInputError, match=r"KX504.*two signatures"):
        parse_manifest(encode_manifest(twice))


def test_not_an_artifact(tmp_path: Path) -> None:
    """No directory, no manifest, a manifest that is a link or too large: each says what is wrong."""
    with pytest.raises(InvalidInputError, match="KX501"):
        read_manifest(tmp_path / "nothing")
    with pytest.raises(InvalidInputError, match=r"KX501.*kexport\.json"):
        read_manifest(tmp_path)
    (tmp_path / "real").write_bytes(encode_manifest(EXAMPLE))
    (tmp_path / "kexport.json").symlink_to(tmp_path / "real")
    with pytest.raises(InvalidInputError, match="KX505"):
        read_manifest(tmp_path)
    (tmp_path / "kexport.json").unlink()
    with (tmp_path / "kexport.json").open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(InvalidInputError, match="KX502"):
        read_manifest(tmp_path)


def test_numbers_json_cannot_hold() -> None:
    """A NaN in a certificate is a bug of ours, found when writing."""
    case = ParityCase(name="x", inputs={}, expected=[], max_length=1, smallest_gap=float("nan"))
    broken = msgspec.structs.replace(EXAMPLE, parity=msgspec.structs.replace(EXAMPLE.parity, cases=(case,)))
    with pytest.raises(InternalError, match="KX930"):
        encode_manifest(broken)
