"""The committed graphs, run by the interpreter, give the tokens of KerasHub's own `generate()`; with a feature switched off they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kexport.graphs.ir import Graph, Node
from kexport.graphs.ops.attention import KEY, KEY_MASK, POSITIONS, SLOPES, VALUE
from kexport.graphs.passes import optimise, run_passes
from kexport.graphs.passes.decompose import decompose
from kexport.graphs.serialize import dumps, loads
from kexport.graphs.verify import verify

from tests.greedy import Generated, greedy
from tests.seed_models import MARGIN, MAX_LENGTH, MODELS, Golden, load_golden

FAMILIES = ["mistral", "gemma", "gemma2", "bloom", "bart"]


def generated(golden: Golden, graphs: dict[str, Graph] | None = None, prompts: list[list[int]] | None = None, **options: Any) -> Generated:
    """Greedy tokens of the golden's model, or of edited graphs."""
    graphs = graphs or golden.graphs
    encoder = golden.model.encoder_prompts if "encode" in graphs else None
    return greedy(graphs, golden.weights, prompts or golden.model.prompts, MAX_LENGTH, encoder_prompts=encoder, **options)


@pytest.mark.parametrize("name", MODELS)
def test_a_ragged_batch_gives_the_golden_tokens(name: str) -> None:
    """Three rows of different lengths, every configuration; the margin the tokens rest on is measured again."""
    golden = load_golden(name)
    result = generated(golden)
    assert result.tokens == golden.tokens
    assert min(result.gaps) >= MARGIN * golden.logit_error
    assert [row[: len(prompt)] for row, prompt in zip(result.tokens, golden.model.prompts, strict=True)] == golden.model.prompts


@pytest.mark.parametrize("name", MODELS)
def test_optimised_graphs_give_the_golden_tokens(name: str) -> None:
    """Packed projections and last-position logits change nothing a user can see."""
    golden = load_golden(name)
    results = run_passes(golden.graphs["extend"], optimise())
    assert results["LastPositionLogits"].changes == 1 and results["PackQueryKeyValue"].changes == golden.model.config["num_layers"]
    assert generated(golden).tokens == golden.tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_decomposed_graphs_give_the_golden_tokens(name: str) -> None:
    """A target without any native intrinsic generates the same."""
    golden = load_golden(name)
    for graph in golden.graphs.values():
        decompose(graph, keep=frozenset())
        verify(graph)
    assert generated(golden).tokens == golden.tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_every_row_alone_gives_the_same_tokens(name: str) -> None:
    """Rows of a batch do not see each other, nor each other's padding."""
    golden = load_golden(name)
    for index, prompt in enumerate(golden.model.prompts):
        encoder = [golden.model.encoder_prompts[index]] if "encode" in golden.graphs else None
        alone = greedy(golden.graphs, golden.weights, [prompt], MAX_LENGTH, encoder_prompts=encoder)
        assert alone.tokens == [golden.tokens[index]]


@pytest.mark.parametrize("name", FAMILIES)
def test_prefill_may_be_cut_anywhere(name: str) -> None:
    """Every cut of the longest prompt, and one token at a time; shorter rows end in the middle of a chunk."""
    golden = load_golden(name)
    longest = max(map(len, golden.model.prompts))
    encoder = golden.model.encoder_prompts if "encode" in golden.graphs else None
    short = longest + 8
    for cuts in [(cut,) for cut in range(1, longest)] + [tuple(range(1, longest)), (2, 4)]:
        result = greedy(golden.graphs, golden.weights, golden.model.prompts, short, encoder_prompts=encoder, chunks=cuts)
        assert result.tokens == [row[:short] for row in golden.tokens], f"cut at {cuts}"


@pytest.mark.parametrize("name", MODELS)
def test_a_stop_in_the_middle(name: str) -> None:
    """A row's mask ends with its first generated stop token, and up to there its tokens are those without stop ids."""
    golden = load_golden(name)
    stopped = 0
    rows = zip(generated(golden).tokens, golden.model.prompts, golden.stop_tokens, golden.stop_masks, strict=True)
    for row, prompt, stop_row, mask in rows:
        ends = [i for i in range(len(prompt), MAX_LENGTH) if row[i] in golden.stop_token_ids]
        end = ends[0] + 1 if ends else MAX_LENGTH
        assert mask == [index < end for index in range(MAX_LENGTH)]
        assert stop_row[:end] == row[:end]
        stopped += len(prompt) + 8 < end < MAX_LENGTH
    assert stopped >= 1, "no row stops in the middle"


@pytest.mark.parametrize("name", MODELS)
def test_golden_graphs_are_canonical(name: str) -> None:
    """Well formed, and written again to the same bytes."""
    for graph in load_golden(name).graphs.values():
        verify(graph)
        text = dumps(graph)
        assert dumps(loads(text)) == text


def attentions(graphs: dict[str, Graph], kind: str = "self") -> list[Node]:
    """The decoder's attention nodes over slots of a kind."""
    return [node for node in graphs["extend"].of_op("attention") if str(node.attrs["slot"]).startswith(kind)]


def drop_input(node: Node, index: int) -> None:
    """Leave an optional input out."""
    inputs = list(node.inputs)
    assert inputs[index], "there is nothing to switch off"
    inputs[index] = ""
    node.inputs = tuple(inputs)


def switch_attribute(name: str, value: Any) -> Callable[[dict[str, Graph]], None]:
    """Set an attribute of every self attention that has it set."""

    def edit(graphs: dict[str, Graph]) -> None:
        nodes = [node for node in attentions(graphs) if node.attrs.get(name)]
        assert nodes, "there is nothing to switch off"
        for node in nodes:
            node.attrs[name] = value(node.attrs[name]) if callable(value) else value

    return edit


def alibi_off(graphs: dict[str, Graph]) -> None:
    """No slopes."""
    for node in attentions(graphs):
        drop_input(node, SLOPES)


def rope_off(graphs: dict[str, Graph]) -> None:
    """Angles of zero."""
    graph = graphs["extend"]
    frequencies = {node.input(2) for node in graph.of_op("rope")}
    assert frequencies
    for name in frequencies:
        graph.constants[name] = np.zeros_like(graph.constants[name])


def norm_offset_off(graphs: dict[str, Graph]) -> None:
    """Scale by w instead of 1 + w, everywhere."""
    nodes = [node for node in graphs["extend"].of_op("rms_norm") if node.attrs["offset"]]
    assert nodes
    for node in nodes:
        node.attrs["offset"] = 0.0


def heads_grouped_otherwise(graphs: dict[str, Graph]) -> None:
    """Query head h reads key-value head h modulo the number of them, instead of h // group: heads dealt out instead of in blocks."""
    graph = graphs["extend"]
    for node in attentions(graphs):
        kv_heads = graph.slots[str(node.attrs["slot"])].num_key_value_heads
        batch, sequence, heads, dim = graph.type_of(node.input(0)).shape
        group = int(heads) // kv_heads
        assert group > 1 and kv_heads > 1
        query = node.input(0)
        parts = graph.add_node("reshape", [query], shape=(batch, sequence, group, kv_heads, dim), before=node)
        swapped = graph.add_node("transpose", [parts], permutation=(0, 1, 3, 2, 4), before=node)
        node.inputs = (graph.add_node("reshape", [swapped], shape=(batch, sequence, heads, dim), before=node), *node.inputs[1:])
        graph_output = graph.add_node("reshape", [node.output], shape=(batch, sequence, kv_heads, group, dim))
        back = graph.add_node("transpose", [graph_output], permutation=(0, 1, 3, 2, 4))
        restored = graph.add_node("reshape", [back], shape=(batch, sequence, heads, dim))
        added = [graph.nodes.pop() for _ in range(3)][::-1]
        place = graph.nodes.index(node) + 1
        graph.nodes[place:place] = added
        for reader in graph.nodes:
            if node.output in reader.inputs and reader is not added[0]:
                reader.inputs = tuple(restored if name == node.output else name for name in reader.inputs)


def cross_cache_off(graphs: dict[str, Graph]) -> None:
    """The encoder's keys and values are all zero."""
    encode = graphs["encode"]
    for output, value in encode.outputs.items():
        if output.startswith("cross."):
            encode.outputs[output] = encode.add_node("mul", [value, encode.add_constant(np.float32(0))])


def encoder_mask_off(graphs: dict[str, Graph]) -> None:
    """Padding of the encoder is seen by the decoder."""
    for node in attentions(graphs, "cross"):
        drop_input(node, KEY_MASK)


def final_softcap_off(graphs: dict[str, Graph]) -> None:
    """tanh behind the head becomes the identity; its order is kept, so only the numbers can show it."""
    graph = graphs["extend"]
    (tanh,) = graph.of_op("tanh")
    graph.replace_uses(tanh.output, tanh.input(0))


def positions_off(graphs: dict[str, Graph]) -> None:
    """Learned positions: every token stands at position 0."""
    graph = graphs["extend"]
    (node,) = [node for node in graph.of_op("embedding") if node.input(1) == "positions"]
    zero = graph.add_constant(np.int32(0))
    node.inputs = (node.input(0), graph.add_node("mul", ["positions", zero], before=node))


def embedding_scale_off(graphs: dict[str, Graph]) -> None:
    """Gemma's sqrt(hidden) behind the embedding becomes 1."""
    graph = graphs["extend"]
    readers = graph.readers()
    (embedding,) = graph.of_op("embedding")
    (scaled,) = [node for node in readers[embedding.output] if node.op == "mul"]
    (factor,) = [name for name in scaled.inputs if name in graph.constants]
    graph.constants[factor] = np.ones_like(graph.constants[factor])


SWITCHES: list[tuple[str, str, Callable[[dict[str, Graph]], None]]] = [
    ("alibi", "bloom", alibi_off),
    ("alibi of six heads", "bloom_six_heads", alibi_off),
    ("window", "mistral", switch_attribute("window", None)),
    ("window below the prompt", "mistral_short_window", switch_attribute("window", None)),
    ("one key more in the window", "mistral_short_window", switch_attribute("window", lambda window: window + 1)),
    ("window of every other layer", "gemma2", switch_attribute("window", None)),
    ("softcap", "gemma2", switch_attribute("softcap", None)),
    ("rope", "mistral", rope_off),
    ("rope of gemma", "gemma", rope_off),
    ("scale", "gemma", switch_attribute("scale", 1.0)),
    ("the scale its option asks for", "gemma2_hidden_scale", switch_attribute("scale", lambda scale: (32 // 4) ** -0.5)),
    ("head grouping", "mistral", heads_grouped_otherwise),
    ("head grouping of gemma2", "gemma2", heads_grouped_otherwise),
    ("1 + w", "gemma", norm_offset_off),
    ("causal", "bloom", switch_attribute("causal", False)),
    ("embedding scale", "gemma", embedding_scale_off),
    ("cross cache", "bart", cross_cache_off),
    ("encoder mask", "bart", encoder_mask_off),
    ("learned positions", "bart", positions_off),
]


@pytest.mark.parametrize(("name", "edit"), [pytest.param(name, edit, id=what) for what, name, edit in SWITCHES])
def test_a_feature_switched_off_changes_the_tokens(name: str, edit: Callable[[dict[str, Graph]], None]) -> None:
    """If it did not, the golden tokens could not tell whether the feature is there."""
    golden = load_golden(name)
    edit(golden.graphs)
    for graph in golden.graphs.values():
        verify(graph)
    edited = generated(golden).tokens
    changed = [row for row, expected in zip(edited, golden.tokens, strict=True) if row != expected]
    assert changed, f"{name}: the tokens stay the same"


def test_the_final_softcap_changes_the_logits() -> None:
    """It keeps the order of logits, so greedy tokens cannot show it; the gaps do."""
    golden = load_golden("gemma2")
    before = generated(golden)
    final_softcap_off(golden.graphs)
    after = generated(golden)
    assert after.tokens == before.tokens and not np.allclose(after.gaps, before.gaps, rtol=0.1)


def test_the_rope_scaling_factor_is_in_the_graph() -> None:
    """Scaled positions turn slower: with the unscaled model's frequencies the tokens change."""
    golden = load_golden("mistral_rope_scaled")
    graph = golden.graphs["extend"]
    for name in {node.input(2) for node in graph.of_op("rope")}:
        graph.constants[name] = graph.constants[name] * np.float32(2.0)
    assert generated(golden).tokens != golden.tokens


@pytest.mark.parametrize("name", ["mistral", "bart"])
def test_attention_kept_as_reads_and_writes_is_the_same(name: str) -> None:
    """A slot written by one node and read by another serves as well as attention that does both."""
    golden = load_golden(name)
    graph = golden.graphs["extend"]
    for node in attentions(golden.graphs):
        slot = str(node.attrs["slot"])
        for part, index in enumerate((KEY, VALUE)):
            graph.add_node("cache_write", [node.input(index), node.input(POSITIONS)], slot=slot, part=part, before=node)
        inputs = list(node.inputs)
        inputs[KEY] = inputs[VALUE] = ""
        node.inputs, node.attrs["write"] = tuple(inputs), False
    verify(graph)
    assert generated(golden).tokens == golden.tokens
