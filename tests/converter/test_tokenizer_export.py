"""The written tokenizer is the original: ids, text, packing and stop ids, for every kind of tokenizer of the seed families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.converter.tokenizers import export_tokenizer, read_packers, resolve_stop_token_ids, vendor_tokenizer_difference
from kexport.converter.tokenizers.packing import prove_packing
from kexport.converter.tokenizers.proof import prove
from kexport.converter.tokenizers.proof_strings import ORDINARY, proof_strings
from kexport.converter.tokenizers.registry import renderings_of
from kexport.runtime.contract.errors import UnsupportedError
from kexport.runtime.contract.manifest import Packer
from kexport.runtime.contract.manifest import Tokenizer as Record
from kexport.runtime.tokenizer import open_tokenizer, pack_rows

pytestmark = pytest.mark.slow
FAMILIES = ["bloom", "bart", "llama3", "mistral", "gemma"]
FEWEST_STRINGS = 2_000
LONGEST = 12


@pytest.fixture(scope="module")
def tiny_models() -> Any:
    """The module that trains the tokenizers; importing it imports Keras."""
    from tests.converter import tiny_models

    return tiny_models


@pytest.fixture(scope="module")
def preprocessors(tiny_models: Any) -> dict[str, Any]:
    """One preprocessor a family."""
    return {family: tiny_models.preprocessor(family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_family_ships_as_tokenizer_json(family: str, preprocessors: dict[str, Any], tmp_path: Path) -> None:
    """Written in the Hugging Face format, proven on at least 2,000 strings, with its config and fixture beside it."""
    preprocessor = preprocessors[family]
    record = export_tokenizer(preprocessor, tmp_path)
    assert (record.kind, record.file) == ("tokenizers", "tokenizer.json")
    assert record.proven_strings >= FEWEST_STRINGS
    assert record.vocabulary_size == preprocessor.tokenizer.vocabulary_size()
    assert set(record.stripped_ids) == set(preprocessor.tokenizer.special_token_ids)
    assert record.stop_token_ids[0] == preprocessor.tokenizer.end_token_id
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["eos_token"] == preprocessor.tokenizer.end_token
    pairs = json.loads((tmp_path / record.fixture).read_text())["pairs"]
    assert len(pairs) >= len(ORDINARY)
    assert all(pair["ids"] == [int(i) for i in preprocessor.tokenizer.tokenize([pair["text"]])[0]] for pair in pairs)


def test_the_same_tokenizer_gives_the_same_bytes(tiny_models: Any, tmp_path: Path) -> None:
    """KerasHub keeps special tokens in a set; the files must not depend on its order."""
    contents = []
    for run in range(3):
        directory = tmp_path / str(run)
        directory.mkdir()
        export_tokenizer(tiny_models.preprocessor("llama3"), directory)
        contents.append({path.name: path.read_bytes() for path in directory.iterdir()})
    assert contents[0] == contents[1] == contents[2]
    added = [token["id"] for token in json.loads(contents[0]["tokenizer.json"])["added_tokens"]]
    assert added == sorted(added)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [5, 9, 32])
def test_packing_is_that_of_generate_preprocess(family: str, length: int, preprocessors: dict[str, Any]) -> None:
    """Ids and masks of cut, padded and empty prompts."""
    preprocessor = preprocessors[family]
    texts = ["", "a", *ORDINARY]
    packers = read_packers(preprocessor)
    if "prompt" in packers:
        rows = {"prompt": preprocessor.generate_preprocess(texts, sequence_length=length)}
        rows["prompt"] = (rows["prompt"]["token_ids"], rows["prompt"]["padding_mask"])
    else:
        inputs = {"encoder_text": texts, "decoder_text": texts}
        both = preprocessor.generate_preprocess(inputs, encoder_sequence_length=length, decoder_sequence_length=length)
        rows = {role: (both[f"{role}_token_ids"], both[f"{role}_padding_mask"]) for role in packers}
    for role, packer in packers.items():
        packed = pack_rows(preprocessor.tokenizer.tokenize(texts), packer, length)
        np.testing.assert_array_equal(packed.ids, np.asarray(rows[role][0]))
        np.testing.assert_array_equal(packed.mask, np.asarray(rows[role][1]))


def test_the_packers_are_those_of_the_family(preprocessors: dict[str, Any]) -> None:
    """Bart wraps the encoder's text and starts the decoder with two tokens; the causal families start with one and never end."""
    bart, tokenizer = read_packers(preprocessors["bart"]), preprocessors["bart"].tokenizer
    assert (bart["encoder"].start, bart["encoder"].end) == ((tokenizer.start_token_id,), (tokenizer.end_token_id,))
    assert (bart["decoder"].start, bart["decoder"].end) == ((tokenizer.end_token_id, tokenizer.start_token_id), ())
    assert bart["encoder"].sequence_length != bart["decoder"].sequence_length
    for family in ("bloom", "llama3", "mistral", "gemma"):
        tokenizer = preprocessors[family].tokenizer
        assert read_packers(preprocessors[family]) == {
            "prompt": Packer(start=(tokenizer.start_token_id,), pad=tokenizer.pad_token_id, sequence_length=32)
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_that_of_generate_postprocess(family: str, preprocessors: dict[str, Any], tmp_path: Path) -> None:
    """Random ids (broken characters, unknown ids) and prompts, special ids dropped first, as KerasHub drops them."""
    preprocessor = preprocessors[family]
    record = export_tokenizer(preprocessor, tmp_path)
    written = open_tokenizer(tmp_path, record)
    source = np.random.default_rng(11)
    rows = source.integers(0, record.vocabulary_size, (200, LONGEST)).astype("int32")
    prefix = "" if "prompt" in record.packers else "decoder_"
    inputs = {f"{prefix}token_ids": rows, f"{prefix}padding_mask": np.ones_like(rows, bool)}
    expected = preprocessor.generate_postprocess(inputs)
    assert [written.decode(row.tolist()) for row in rows] == list(expected)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gemma", {"normalization_rule_name": "nmt_nfkc"}),
        ("gemma", {"model_type": "unigram", "user_defined_symbols": [], "vocab_size": 500}),
        ("gemma", {"model_type": "word", "byte_fallback": False, "user_defined_symbols": [], "vocab_size": 100}),
        ("mistral", {"user_defined_symbols": ["[INST]"]}),
    ],
)
def test_what_tokenizer_json_cannot_say_ships_as_the_model_itself(
    family: str, options: dict[str, Any], tiny_models: Any, tmp_path: Path
) -> None:
    """Another normalization or model type: `tokenizer.spm`, proven the same way, and no half-right tokenizer.json left behind."""
    record = export_tokenizer(tiny_models.preprocessor(family, **options), tmp_path)
    assert (record.kind, record.file, record.piece_decoder is not None) == ("sentencepiece", "tokenizer.spm", True)
    assert record.proven_strings >= FEWEST_STRINGS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.spm", "tokenizer_fixture.json"]


def without_last_merges(document: dict[str, Any]) -> None:
    """Forgets how the last words are joined."""
    document["model"]["merges"] = document["model"]["merges"][:-50]


def without_added_tokens(document: dict[str, Any]) -> None:
    """Forgets what is never split."""
    document["added_tokens"] = []


def with_another_split(document: dict[str, Any]) -> None:
    """Reads the split pattern as a regular expression; keras-hub 0.32 hands it over as a literal string, which never matches."""
    split = document["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"] = {"Regex": split["pattern"]["String"]}


def with_another_normalizer(document: dict[str, Any]) -> None:
    """Composes characters, which the original does not."""
    document["normalizer"] = {"type": "NFKC"}


@pytest.mark.parametrize("change", [without_last_merges, without_added_tokens, with_another_split, with_another_normalizer])
def test_the_proof_sees_a_wrong_file(change: Any, preprocessors: dict[str, Any], tmp_path: Path) -> None:
    """A file that differs in one rule is refused, with the first string it gets wrong; the hint is --no-tokenizer."""
    tokenizer = preprocessors["bloom"].tokenizer
    rendering = renderings_of(tokenizer)[0]
    document = json.loads(rendering.content)
    change(document)
    (tmp_path / rendering.file).write_text(json.dumps(document))
    with pytest.raises(UnsupportedError) as caught:
        prove(tokenizer, open_tokenizer(tmp_path, Record(kind=rendering.kind, file=rendering.file, vocabulary_size=0, packers={})))
    assert caught.value.code == "KX441"
    assert "--no-tokenizer" in caught.value.hint


def test_the_proof_sees_wrong_packing(preprocessors: dict[str, Any]) -> None:
    """A missing start id, another pad id, another side: refused."""
    packer = read_packers(preprocessors["bloom"])["prompt"]
    wrong = [
        Packer(pad=packer.pad),
        Packer(start=packer.start, pad=packer.pad + 1),
        Packer(start=packer.start, pad=packer.pad, padding_side="left"),
    ]
    for candidate in wrong:
        with pytest.raises(UnsupportedError, match="packs the prompt text"):
            prove_packing(preprocessors["bloom"], {"prompt": candidate})
    prove_packing(preprocessors["bloom"], {"prompt": packer})


def test_options_that_no_file_can_carry_are_refused(tiny_models: Any, tmp_path: Path) -> None:
    """A tokenizer that pads, or that adds its own start id, is refused before anything is written."""
    for family, attribute in [("bloom", "sequence_length"), ("gemma", "add_bos")]:
        preprocessor = tiny_models.preprocessor(family)
        setattr(preprocessor.tokenizer, attribute, 8)
        with pytest.raises(UnsupportedError) as caught:
            export_tokenizer(preprocessor, tmp_path)
        assert caught.value.code == "KX440"
    assert not list(tmp_path.iterdir())


def test_stop_ids_are_asked_of_generate(tiny_models: Any) -> None:
    """Causal and seq2seq tasks answer with their own resolved list, and keep their compiled function, sampler and preprocessor."""
    for task in (tiny_models.bloom(), tiny_models.bart()):
        marker, sampler = object(), task.sampler
        task.generate_function = marker
        assert resolve_stop_token_ids(task) == (task.preprocessor.tokenizer.end_token_id,)
        assert task.generate_function is marker and task.sampler is sampler
        task.preprocessor = None
        assert resolve_stop_token_ids(task) is None


def test_ort_genai_is_compared_on_the_fixture(preprocessors: dict[str, Any], tmp_path: Path) -> None:
    """ORT-GenAI's tokenizer reads Bloom's files, agrees on plain sentences, and its differences are reported with examples."""
    pytest.importorskip("onnxruntime_genai")
    record = export_tokenizer(preprocessors["bloom"], tmp_path)
    difference = vendor_tokenizer_difference(tmp_path, record.fixture)
    assert difference.startswith("its tokenizer gives other ids for"), "it is known to split white space otherwise"
    assert "Hello world" not in difference
    pairs = json.loads((tmp_path / record.fixture).read_text())["pairs"]
    plain = [pair for pair in pairs if pair["text"] in ORDINARY[:3]]
    (tmp_path / "plain.json").write_text(json.dumps({"pairs": plain}))
    assert vendor_tokenizer_difference(tmp_path, "plain.json") == ""


def test_proof_strings_are_many_distinct_and_always_the_same() -> None:
    """The proof does not depend on the day it is made."""
    strings = proof_strings(["<s>"], ["piece"])
    assert len(strings) == len(set(strings)) >= FEWEST_STRINGS
    assert strings == proof_strings(["<s>"], ["piece"])
    for text in strings:
        text.encode("utf-8")
    assert any("\x00" in text for text in strings) and any("\ufffd" in text for text in strings)
