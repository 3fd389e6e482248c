"""Whole decoders: the vendor's interpreter and the runtime's engine give the logits of ours, feature by feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.graphs.interpreter import run
from kexport.runtime.contract.errors import UnsupportedError

from tests.targets.onnx.toys import Reference, Toy, decoder, encoder
from tests.targets.tflite.helpers import Steps, opened, write

BOUND = 1e-5  # of the logits' standard deviation
PROMPT = [3, 17, 5, 40, 22, 9, 31]
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"windows": (4,)},
    "gemma2": {"softcap": 4.0, "windows": (4, None), "offset": 1.0, "tied": True, "final_softcap": 30.0, "kv_heads": 1, "head_dim": 24},
    "bloom": {"alibi": True, "rope": False, "norm": "layer_norm", "bias": True, "kv_heads": 4, "activation": "gelu"},
    "alibi over grouped heads": {"alibi": True, "kv_heads": 2},
    "odd heads": {"head_dim": 20},
    "values of another size": {"value_dim": 8},
    "half a rope, scaled": {"rope_half": 4, "rope_factor": 1.5},
    "learned positions": {"rope": False, "learned_positions": True},
    "mask and sinks": {"mask": True, "sinks": True},
    "window alone": {"causal": True, "windows": (1,)},
    "plain cache": {"plain_cache": True},
    "not packed": {"packed": False},
    "experts": {"experts": 6},
    "experts of gpt-oss": {"experts": 6, "taken": 3, "experts_form": "gpt-oss", "sinks": True},
    "experts of gemma": {"experts": 6, "taken": 1, "experts_form": "gelu"},
}


@pytest.mark.parametrize("xnnpack", [True, False], ids=["xnnpack", "plain kernels"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_vendors_interpreter(name: str, xnnpack: bool, tmp_path: Path) -> None:
    """A padded prefill and single steps, with the XNNPACK delegate and without."""
    files = write(tmp_path, decoder(Toy(**FAMILIES[name])), capacity=24)
    steps, reference = Steps(files, xnnpack=xnnpack), Reference(files.graphs["extend"], files.source, 1)
    rng = np.random.default_rng(5)
    for tokens in (PROMPT, *rng.integers(1, 61, (8, 1)).tolist()):
        want = reference.extend(np.array([tokens]), np.array([len(tokens)]))[0, -1]
        assert np.abs(steps.extend(tokens) - want).max() < BOUND * want.std()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_engine(name: str, tmp_path: Path) -> None:
    """A ragged prefill, ragged pieces over a past, single steps and a rewind, for a batch of three."""
    files = write(tmp_path, decoder(Toy(**FAMILIES[name])), capacity=24)
    rng = np.random.default_rng(8)
    with opened(files) as engine:
        cache = engine.new_cache(3, 24)
        reference = Reference(files.graphs["extend"], files.source, 3)
        for counts in ((6, 2, 5), (3, 1, 4), (1, 1, 1), (1, 1, 1)):
            tokens = rng.integers(0, engine.vocabulary_size, (3, max(counts)))
            got, want = engine.extend(cache, tokens, np.array(counts)), reference.extend(tokens, np.array(counts))[:, 0]
            assert np.abs(got - want).max() < BOUND * want.std()
        cache.rewind([8, 2, 9])
        reference.lengths = np.array([8, 2, 9])
        tokens = rng.integers(0, engine.vocabulary_size, (3, 1))
        want = reference.extend(tokens, np.ones(3, np.int64))[:, 0]
        assert np.abs(engine.extend(cache, tokens) - want).max() < BOUND * want.std()


def test_encoder_and_decoder(tmp_path: Path) -> None:
    """Encoder prompts of two lengths in two buckets; cross caches padded to their capacity."""
    toy = Toy(cross=True, kv_heads=4, rope=False, learned_positions=True, tied=True)
    files = write(tmp_path, {"encode": encoder(toy), "extend": decoder(toy)}, capacity=24, encoder_capacity=11)
    assert [s.name for s in files.emitted.signatures] == [
        "encode_4",
        "encode_8",
        "encode_11",
        "prefill_4",
        "prefill_8",
        "first_4",
        "first_8",
        "decode",
    ]
    assert files.emitted.cache.encoder_capacity == 11
    rng = np.random.default_rng(9)
    ids, mask = rng.integers(0, toy.vocabulary, (2, 6)), np.arange(6) < np.array([[6], [3]])
    encoded = run(files.graphs["encode"], {"encoder_token_ids": ids.astype(np.int32), "encoder_padding_mask": mask}, files.source)
    reference = Reference(files.graphs["extend"], files.source, 2, cross={k: v for k, v in encoded.items() if k != "hidden"})
    reference.extra["encoder_padding_mask"] = mask
    with opened(files) as engine:
        cache = engine.new_cache(2, 20)
        engine.encode(ids, mask, cache)
        for counts in ((3, 1), (1, 1), (1, 1)):
            tokens = rng.integers(0, toy.vocabulary, (2, max(counts)))
            want = reference.extend(tokens, np.array(counts))[:, 0]
            assert np.abs(engine.extend(cache, tokens, np.array(counts)) - want).max() < BOUND * want.std()


def test_decoders_of_a_part_of_the_cache(tmp_path: Path) -> None:
    """`decode_512` looks at 512 positions of the same caches and gives the logits of `decode`, up to its last position."""
    files = write(tmp_path, decoder(Toy(layers=1, hidden=16, heads=2, kv_heads=1, head_dim=8)), capacity=600, prefill_buckets=(8, 512))
    assert [s.name for s in files.emitted.signatures] == [
        "prefill_8",
        "prefill_512",
        "first_8",
        "first_512",
        "decode_256",
        "decode_384",
        "decode_512",
        "decode",
    ]
    shapes = {s.name: {spec.name: spec.shape for spec in s.inputs} for s in files.emitted.signatures}
    assert shapes["decode_512"] == shapes["decode"]
    steps = Steps(files, xnnpack=True)
    steps.extend(np.arange(510) % 61)
    for token in (7, 8):
        saved = dict(steps.caches), steps.held
        short = steps.extend([token], "decode_512")
        steps.caches, steps.held = dict(saved[0]), saved[1]
        whole = steps.extend([token])
        np.testing.assert_allclose(short, whole, atol=BOUND * whole.std())
    assert steps.held == 512


def test_a_prefill_has_no_logits_and_no_dead_work(tmp_path: Path) -> None:
    """The last layer of a prefill writes its keys and values, and nothing behind them is in the file."""
    files = write(tmp_path, decoder(Toy(layers=2)), prefill_buckets=(4,))
    forms = operators(files.path)
    assert forms["first_4"].count("SOFTMAX") == forms["prefill_4"].count("SOFTMAX") == 1 and forms["decode"].count("SOFTMAX") == 2
    assert forms["prefill_4"].count("DYNAMIC_UPDATE_SLICE") == forms["decode"].count("DYNAMIC_UPDATE_SLICE") == 4
    assert forms["prefill_4"].count("FULLY_CONNECTED") == 5 and forms["decode"].count("FULLY_CONNECTED") == 9
    assert {s.name: s.returns_logits for s in files.emitted.signatures} == {"prefill_4": "none", "first_4": "none", "decode": "last"}


def test_masks_and_tables_are_made_once_for_all_layers(tmp_path: Path) -> None:
    """Four layers read two masks (two windows) and one pair of rotary rows."""
    files = write(tmp_path, decoder(Toy(layers=4, windows=(4, None))), prefill_buckets=(4,))
    forms = operators(files.path)["decode"]
    assert forms.count("GATHER") == 2 and forms.count("MINIMUM") == 4 and forms.count("PACK") == 1


def test_computed_positions_are_refused(tmp_path: Path) -> None:
    """A cache written at positions that need not count on by one cannot be one block."""
    graph = decoder(Toy(layers=1))
    (node,) = graph.of_op("attention")
    shifted = graph.add_node("add", ["positions", graph.add_constant(np.int32(0))], before=node)
    node.inputs = (*node.inputs[:3], shifted, *node.inputs[4:])
    with pytest.raises(UnsupportedError, match="layer0.attention") as caught:
        write(tmp_path, graph)
    assert caught.value.code == "KX232"


def operators(path: Path) -> dict[str, list[str]]:
    """Signature -> its operators in order, read with the vendor's schema."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    graphs = {definition.signatureKey.decode(): model.subgraphs[definition.subgraphIndex] for definition in model.signatureDefs}
    return {name: [codes[operator.opcodeIndex] for operator in graph.operators] for name, graph in graphs.items()}


def test_the_first_piece_of_a_prompt(tmp_path: Path) -> None:
    """`first_<n>` writes the caches that `prefill_<n>` writes, and scores n positions instead of all."""
    files = write(tmp_path, decoder(Toy(windows=(3, None), softcap=4.0)), prefill_buckets=(4, 8))
    one, other = Steps(files, xnnpack=True), Steps(files, xnnpack=True)
    one.run("prefill_8", [*PROMPT, 1])
    other.run("first_8", [*PROMPT, 1])
    for name, cache in one.caches.items():
        np.testing.assert_allclose(other.caches[name], cache, atol=1e-5)
    scores = {name: max(shape[-1] for shape in shapes) for name, shapes in softmax_shapes(files.path).items()}
    assert scores["first_8"] == 8 and scores["first_4"] == 4 and scores["prefill_8"] == scores["decode"] == files.emitted.cache.capacity


def softmax_shapes(path: Path) -> dict[str, list[list[int]]]:
    """Signature -> the shapes of its softmaxes."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    softmax = [index for index, code in enumerate(model.operatorCodes) if code.builtinCode == schema.BuiltinOperator.SOFTMAX]
    graphs = {definition.signatureKey.decode(): model.subgraphs[definition.subgraphIndex] for definition in model.signatureDefs}
    return {
        name: [graph.tensors[operator.outputs[0]].shape.tolist() for operator in graph.operators if operator.opcodeIndex in softmax]
        for name, graph in graphs.items()
    }
