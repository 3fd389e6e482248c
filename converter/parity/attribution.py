"""When logits differ: is it rounding, the capture or the target? The captured graph, run by the numpy reference, tells.

The reference runs one row of the case, with the original's tokens fed, and its logits are compared with the original's and the artifact's
at each position. In float64 it stands for exact arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from kexport.converter.parity.cases import Case, padded
from kexport.converter.parity.images import placed_images
from kexport.converter.parity.tolerances import AS_CLOSE_AS, LOGIT_BOUND
from kexport.graphs.interpreter import Caches, new_caches, run
from kexport.graphs.ir import Graph
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import Images
from numpy.typing import NDArray

LARGEST_MODEL = 500_000_000  # parameters; the reference is slow
SHOWN_PARTS = ("key", "value")


def widened(graph: Graph) -> Graph:
    """The same graph in float64: weights, constants, caches and casts."""
    wide = graph.copy()
    wide.weights = {name: weight.cast("float64") for name, weight in graph.weights.items()}
    wide.constants = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in graph.constants.items()}
    wide.slots = {name: dataclasses.replace(slot, dtype="float64") for name, slot in graph.slots.items()}
    wide.states = {name: dataclasses.replace(state, dtype="float64") for name, state in graph.states.items()}
    for node in wide.nodes:
        if node.attrs.get("dtype") == "float32":
            node.attrs["dtype"] = "float64"
    return wide


def reference_logits(
    graphs: Mapping[str, Graph], weights: WeightSource, case: Case, row_index: int, row: NDArray[Any], pad: int
) -> NDArray[Any]:
    """The captured graph's logits [positions, vocabulary] for the last prompt token and every later one of one row of the case."""
    graph = graphs["extend"]
    caches = new_caches(graph, 1, len(row))
    feeds: dict[str, Any] = {}
    if case.encoder:
        prompt = case.encoder[row_index]
        ids, mask = padded((prompt,), len(prompt), pad)
        encoded = run(graphs["encode"], {"encoder_token_ids": ids, "encoder_padding_mask": mask}, weights)
        feeds["encoder_padding_mask"] = mask
        for slot in (name for name, value in graph.slots.items() if value.kind == "cross"):
            caches[slot] = [encoded[f"{slot}.{part}"] for part in SHOWN_PARTS]
    prompt_length, start, logits = len(case.prompts[row_index]), 0, []
    if case.is_literal:
        buffer, _ = padded((case.prompts[row_index],), len(row), pad)
        _feed(graph, weights, caches, feeds, buffer, 0, valid=prompt_length)  # one call of the original's
        start = case.start - 1
    if case.images and case.images[row_index]:
        start = prompt_length - 1
        _hold_images(graphs, weights, caches, case, row_index, row[None, :start])
    for stop in range(start + 1 if case.is_literal else prompt_length, len(row)):
        step = _feed(graph, weights, caches, feeds, row[None, start:stop], start, valid=len(row))
        logits += [step] if stop >= prompt_length else []
        start = stop
    return np.stack(logits)


def _hold_images(graphs: Mapping[str, Graph], weights: WeightSource, caches: Caches, case: Case, row_index: int, ids: NDArray[Any]) -> None:
    """Let the caches hold a prompt `ids` [1, length] with its images, as `prefill_images` computes it."""
    vision, slots = graphs[names.VISION], graphs[names.EXTEND].slots
    _, height, width, channels = (int(size) if isinstance(size, int) else 0 for size in vision.inputs[names.PIXEL_VALUES].shape)
    tokens = int(vision.type_of(vision.outputs[names.IMAGE_EMBEDDINGS]).shape[1])
    placed = placed_images(case, Images(height=height, width=width, channels=channels, tokens=tokens), ids.shape[1])
    dtype, mask = next(iter(slots.values())).dtype, placed["vision_mask"][row_index]
    pixels = placed["images"][row_index, : len(case.images[row_index])].astype(dtype)
    embedded = run(vision, {names.PIXEL_VALUES: pixels}, weights)[names.IMAGE_EMBEDDINGS]
    embeddings = np.zeros((1, ids.shape[1], embedded.shape[-1]), dtype)
    embeddings[0, mask] = embedded.reshape(-1, embedded.shape[-1])
    feeds = {names.TOKEN_IDS: ids, names.VISION_MASK: mask[None], names.IMAGE_EMBEDDINGS: embeddings}
    held = run(graphs[names.PREFILL_IMAGES], feeds, weights)
    for layer, slot in enumerate(slots):
        for cache, part in zip(caches[slot], (names.KEYS, names.VALUES), strict=True):
            cache[:, : ids.shape[1]] = held[f"{part}.{layer}"]


def _feed(graph: Graph, weights: WeightSource, caches: Caches, others: dict[str, Any], tokens: NDArray[Any], start: int, *, valid: int) -> NDArray[Any]:
    """One call with `tokens` [1, length] at `start`, of which those from `valid` on are padding; the last one's logits."""
    length = tokens.shape[1]
    positions = np.arange(start, start + length, dtype=np.int32)[None]
    feeds = {**others, "token_ids": tokens, "positions": positions, "lengths": np.array([length]), names.VALID_LENGTHS: np.array([valid], np.int32)}
    feeds[names.EXTENT] = np.full_like(positions, start + length)
    logits: NDArray[Any] = run(graph, {name: feeds[name] for name in graph.inputs if name in feeds}, weights, caches)["logits"][0, -1]
    return logits


def rounding_explains(
    graphs: Mapping[str, Graph],
    weights: WeightSource,
    case: Case,
    row_index: int,
    tokens: NDArray[Any],
    oracle: NDArray[Any],
    artifact: NDArray[Any],
    pad: int,
) -> str:
    """A sentence for the certificate where original and artifact are about as close to exact arithmetic as the captured graph in float32 is; empty
    where one is not. Both must be: an original far from the graph's exact result says that the graph is another function.
    """
    row, start = tokens[row_index], len(case.prompts[row_index])
    exact = reference_logits({name: widened(graph) for name, graph in graphs.items()}, weights, case, row_index, row, pad)
    of_rounding = float(np.abs(reference_logits(graphs, weights, case, row_index, row, pad) - exact).max())
    of_oracle, of_artifact = (float(np.abs(logits[row_index, start - 1 : len(row) - 1] - exact).max()) for logits in (oracle, artifact))
    if not max(of_oracle, of_artifact) <= AS_CLOSE_AS * of_rounding:
        return ""
    return (
        f"case `{case.name}`: this model amplifies rounding; on row {row_index} the original's logits lie {of_oracle:.2g} from exact arithmetic, "
        f"the artifact's {of_artifact:.2g}"
    )


def attribute_difference(
    graphs: Mapping[str, Graph], weights: WeightSource, case: Case, tokens: NDArray[Any], oracle: NDArray[Any], pad: int
) -> str:
    """One sentence that says which side of the graph the difference comes from."""
    row, start = tokens[0], len(case.prompts[0])
    ours, theirs = reference_logits(graphs, weights, case, 0, row, pad), oracle[0, start - 1 : len(row) - 1]
    bound = LOGIT_BOUND["float32"] * (theirs.max(axis=-1) - theirs.min(axis=-1))
    differs = np.abs(ours - theirs).max(axis=-1) > bound
    if not differs.any():
        return "the captured graph, run by the reference interpreter, equals the original: the difference comes from the target's rendering"
    position = start + int(np.argmax(differs))
    return f"the captured graph itself, run by the reference interpreter, differs from the original from position {position} on: the capture is wrong"
