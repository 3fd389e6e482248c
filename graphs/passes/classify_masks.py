"""Mask tensors become attributes where they follow a rule exactly.

A mask is cut out of the graph, run on probe sizes and compared:

    1  everything visible                            ->  no mask
    2  key <= position [, position - key < window]   ->  causal [, window]
    3  the padding input, for every query            ->  key_mask

Running a mask needs no layer: shapes are named dims, so a mask computes from sizes, the call's start and the padding input only.
The window is measured over a million keys, so that large windows are found, and each rule is compared on several chunk sizes.

Kept as a tensor: masks that depend on weights or token ids, and those that follow none of the rules (noted as refusals).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, SEQUENCE, TOTAL, evaluate
from kexport.graphs.interpreter import run
from kexport.graphs.ir import ABSENT, Graph, Node
from kexport.graphs.ops.attention import INPUTS, KEY_MASK, MASK, POSITIONS
from kexport.graphs.ops.joint_attention import ATTENTION
from kexport.graphs.passes.base import Pass, Result
from kexport.graphs.passes.subgraph import ancestors, cut_out
from numpy.typing import NDArray

START_INDEX = "start_index"
POSITIONS_INPUT = "positions"
SIZE_INPUTS = frozenset({START_INDEX, POSITIONS_INPUT})
FAR = 1 << 20


@dataclass(frozen=True, slots=True)
class Probe:
    """One set of sizes: rows, tokens of the call, where it starts, cache size, encoder length."""

    batch: int
    sequence: int
    start: int
    total: int
    encoder: int = 7

    def dims(self) -> dict[str, int]:
        """The named dims."""
        return {BATCH: self.batch, SEQUENCE: self.sequence, TOTAL: self.total, ENCODER_SEQUENCE: self.encoder}

    def feed(self, name: str, shape: tuple[Any, ...], dtype: str) -> NDArray[Any]:
        """Probe numbers for a graph input: where the call starts, the positions, or a random padding mask that starts visible."""
        if name == START_INDEX:
            return np.asarray(self.start, np.int32)
        if name == POSITIONS_INPUT:
            return np.tile(self.start + np.arange(self.sequence, dtype=np.int32), (self.batch, 1))
        sizes = tuple(evaluate(dim, self.dims()) for dim in shape)
        padding = np.random.default_rng(0).random(sizes) < 0.5  # half of the keys hidden
        padding[..., 0] = True
        return padding.astype(bool if dtype == "bool" else dtype)


CHUNKS = (Probe(2, 3, 6, 12), Probe(2, 1, 0, 9), Probe(2, 5, 0, 5))
FAR_IF_SQUARE = 1 << 12


def run_part(part: Graph, probe: Probe) -> dict[str, NDArray[Any]]:
    """Run a cut-out graph on a probe's sizes and numbers."""
    feeds = {name: probe.feed(name, type_.shape, type_.dtype) for name, type_ in part.inputs.items()}
    return run(part, feeds, None, None, **probe.dims())


def far_probe(part: Graph) -> Probe | None:
    """One token far into a long cache. A mask that is built as a square [total, total] is probed over fewer keys.

    None where that would be too few: the square holds a constant, a window perhaps, beyond what is probed.
    """
    square = any(type_.shape.count(TOTAL) > 1 for type_ in (part.types[output] for node in part.nodes for output in node.outputs))
    if not square:
        return Probe(1, 1, FAR - 2, FAR)
    read = {name for node in part.nodes for name in node.inputs}
    numbers = [array for name, array in part.constants.items() if name in read and array.dtype.kind == "i" and array.size]
    beyond = any(int(array.max()) + 2 >= FAR_IF_SQUARE for array in numbers)
    return None if beyond else Probe(1, 1, FAR_IF_SQUARE - 2, FAR_IF_SQUARE)


def wide_probe(part: Graph) -> Probe | None:
    """Rows longer than any number that the mask holds (a window perhaps), so that it shows. None where that would be too long to run."""
    read = {name for node in part.nodes for name in node.inputs}
    arrays = [array for name, array in part.constants.items() if name in read and array.dtype.kind in "if" and array.size]
    numbers = [int(array.max()) for array in arrays if array.max() < FAR]
    size = max(numbers, default=0) + 3
    return None if size > FAR_IF_SQUARE else Probe(2, size, 0, size, size)


def causal_rule(part: Graph, value: str) -> dict[str, Any] | None:
    """{"causal": True, "window": visible keys or None} where `value` [..., sequence, total] follows that rule exactly, else None."""
    far = far_probe(part)
    if far is None:
        return None
    keys = int(np.asarray(run_part(part, far)[value]).astype(bool).sum())
    window = None if keys == far.start + 1 else keys
    for probe in (*CHUNKS, far):
        seen = np.asarray(run_part(part, probe)[value])
        position, key = probe.start + np.arange(probe.sequence)[:, None], np.arange(probe.total)
        expected = (key <= position) if window is None else (key <= position) & (position - key < window)
        if not np.array_equal(seen, np.broadcast_to(expected, seen.shape).astype(seen.dtype)):
            return None
    return {"causal": True, "window": window}


def hides_the_keys(visible: NDArray[Any], padding: NDArray[Any]) -> bool:
    """Whether a mask [batch|1, heads|1, sequence|1, keys] equals the padding [batch, 1, 1, keys] for every head and query."""
    return visible.shape[-1] == padding.shape[-1] and visible.shape[0] == padding.shape[0] and bool((visible == padding).all())


def _depends_on_weights(graph: Graph, nodes: Iterable[Node], leaves: Iterable[str]) -> bool:
    """Whether a mask made by `nodes` from `leaves` is no matter of sizes, the call's start and padding alone."""
    return any(leaf in graph.weights for leaf in leaves) or any(node.op in (*ATTENTION, "linear", "embedding") for node in nodes)


def is_causal(graph: Graph, mask: str) -> bool:
    """Whether a mask [batch|1, heads|1, sequence, sequence] hides every later key, whatever the padding; false where it is no matter of sizes
    and padding alone."""
    nodes, leaves = ancestors(graph, [mask])
    if _depends_on_weights(graph, nodes, leaves):
        return False
    part = cut_out(graph, [mask])
    seen = [np.asarray(run_part(part, probe)[mask]).astype(bool) for probe in CHUNKS]
    return all(array.shape[-2] == array.shape[-1] and not np.triu(array, 1).any() for array in seen)


class ClassifyMasks(Pass):
    """See the module."""

    def run(self, graph: Graph, result: Result) -> None:
        rules: dict[str, dict[str, Any] | None] = {}
        for node in graph.of_op(*ATTENTION):
            mask = node.input(MASK)
            if not mask:
                continue
            if mask not in rules:
                rules[mask] = self._rule(graph, node, mask)
            rule = rules[mask]
            if rule is None:
                result.refusals.append(f"{node.layer}: its mask follows no known rule, kept as a tensor")
                continue
            self._apply(node, rule)
            result.changes += 1

    def _rule(self, graph: Graph, node: Node, mask: str) -> dict[str, Any] | None:
        nodes, leaves = ancestors(graph, [mask])
        paddings = [name for name in leaves if name in graph.inputs and name not in SIZE_INPUTS]
        if _depends_on_weights(graph, nodes, leaves):
            return None
        if any(not name.endswith("padding_mask") for name in paddings):
            return None
        part = cut_out(graph, [mask])
        seen = {probe: run_part(part, probe)[mask] for probe in CHUNKS}
        all_visible = all(visible.all() for visible in seen.values())
        if not all_visible and not paddings:
            return causal_rule(part, mask) if node.input(POSITIONS) and node.attrs.get("slot") else None
        wide = wide_probe(part)
        if wide is None:
            return None
        seen[wide] = run_part(part, wide)[mask]
        if all_visible:
            return {} if seen[wide].all() else None
        return self._padding_rule(paddings, graph, seen)

    def _padding_rule(self, paddings: list[str], graph: Graph, seen: dict[Probe, NDArray[Any]]) -> dict[str, Any] | None:
        if len(paddings) != 1:
            return None
        (name,) = paddings
        type_ = graph.inputs[name]
        same = all(
            hides_the_keys(visible, probe.feed(name, type_.shape, type_.dtype).astype(bool)[:, None, None, :]) for probe, visible in seen.items()
        )
        return {"key_mask": name} if same else None

    def _apply(self, node: Node, rule: dict[str, Any]) -> None:
        inputs = list(node.inputs) + [ABSENT] * (len(INPUTS) - len(node.inputs))
        inputs[MASK] = ABSENT
        if "key_mask" in rule:
            inputs[KEY_MASK] = rule["key_mask"]
        if rule.get("causal"):
            node.attrs["causal"] = True
            windows = [int(w) for w in (rule["window"], node.attrs.get("window")) if w]  # type: ignore[arg-type]
            node.attrs["window"] = min(windows, default=None)
        while inputs and not inputs[-1]:
            inputs.pop()
        node.inputs = tuple(inputs)
