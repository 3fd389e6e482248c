"""Capture what a model does with images: two graphs over whole rows beside `extend`, which stays the text model it is.

    vision           pixel_values [batch, height, width, channels] -> image_embeddings [batch, tokens, hidden]: images of the size the model wants
    prefill_images   token_ids, vision_mask, image_embeddings [batch, sequence, hidden] -> keys.<i>, values.<i> [batch, sequence, heads, dim]

`prefill_images` runs a whole prompt in which the embeddings of the tokens that `vision_mask` names are those given, and hands back what the caches
`self.<i>` hold after it. It gives no logits: the prompt's last token is fed to `extend` over these caches, as KerasHub's loop does, too. So decoding
knows nothing of images and costs what it costs without them.

A family says how it runs both, and what its preprocessor puts where an image stands:

    @image_family("Gemma3CausalLM")
    def of_gemma3(task): return ImageFamily(...)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from kexport.graphs.capture.by_class import ByClass
from kexport.graphs.capture.causal import finish
from kexport.graphs.capture.importing import import_function
from kexport.graphs.capture.intercept import intercepting
from kexport.graphs.capture.lora import without_lora
from kexport.graphs.capture.trace import Trace
from kexport.graphs.dims import BATCH, SEQUENCE, Shape
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.ops.attention import KEY, VALUE
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class ImageFamily:
    """How a task runs images.

    `image_shape`: height, width and channels of what `vision` takes. `tokens`: how many embeddings an image becomes. `window`: the
    keys that a local layer sees, None without such layers. `vision(pixel_values)` gives
    image_embeddings; `prefill(token_ids, vision_mask, image_embeddings)` runs the decoder's layers over an uncached row. `cached_forward(token_ids,
    cache, images, vision_mask, vision_indices)` is what stock `generate()` runs over a prompt: logits, hidden states and the cache.
    """

    image_shape: tuple[int, int, int]
    tokens: int
    hidden_size: int
    window: int | None
    vision: Callable[[tf.Tensor], tf.Tensor]
    prefill: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
    cached_forward: Callable[[tf.Tensor, Any, tf.Tensor, tf.Tensor, tf.Tensor], Any]


Description = Callable[[Any], ImageFamily | None]
_DESCRIBED: ByClass[Description] = ByClass()


def image_family(*class_names: str) -> Callable[[Description], Description]:
    """Register how tasks of these classes run images; the function gives None for a task without a vision tower."""
    return _DESCRIBED.register(*class_names)


def images_of(task: Any) -> ImageFamily | None:
    """How `task` runs images; None where it has no vision tower, or its family is not described."""
    description = _DESCRIBED.of(task)
    return None if description is None else description(task)


def capture_images(task: Any, slots: dict[str, Slot], *, without: frozenset[str] = frozenset()) -> tuple[dict[str, Graph], list[str]]:
    """The graphs `vision` and `prefill_images` of a task whose `images_of` is not None, and notes; `slots` are those of its graph `extend`.

    Raises:
        UnsupportedError: KX384, its layers do not fit the slots; KX201, an op that the graph has no form for.
    """
    family = images_of(task)
    assert family is not None
    if family.window is not None and family.tokens > family.window:  # stock hides keys that are too far ahead, too; the graph only those behind
        message = f"an image's {family.tokens} tokens do not fit the model's local windows of {family.window}"
        raise UnsupportedError("KX384", message, hint="convert it for texts alone: --text-only")
    vision, vision_notes = _trace(task, names.VISION, {names.PIXEL_VALUES: ("float32", (BATCH, *family.image_shape))}, _vision(family), without)
    inputs: dict[str, tuple[str, Shape]] = {
        names.TOKEN_IDS: ("int32", (BATCH, SEQUENCE)),
        names.VISION_MASK: ("bool", (BATCH, SEQUENCE)),
        names.IMAGE_EMBEDDINGS: ("float32", (BATCH, SEQUENCE, family.hidden_size)),
    }
    prefill, prefill_notes = _trace(task, names.PREFILL_IMAGES, inputs, _prefill(task, family, slots), without)
    return {names.VISION: vision, names.PREFILL_IMAGES: prefill}, vision_notes + prefill_notes


Body = Callable[[Trace, list[tf.Tensor]], dict[str, tf.Tensor]]


def _trace(task: Any, name: str, inputs: dict[str, tuple[str, Shape]], body: Body, without: frozenset[str]) -> tuple[Graph, list[str]]:
    trace, graph = Trace(causal_rows=True), Graph(name)
    wanted: dict[str, tf.Tensor] = {}
    specs = []
    for tensor, (dtype, shape) in inputs.items():
        graph.add_input(tensor, dtype, shape)
        specs.append(tf.TensorSpec([size if isinstance(size, int) else None for size in shape], dtype, name=tensor))

    def stock(*tensors: tf.Tensor) -> tf.Tensor:
        wanted.update(body(trace, list(tensors)))
        return tf.zeros([])

    with without_lora(task), intercepting(trace, without=without):
        function = tf.function(stock, autograph=False).get_concrete_function(*specs)
    kept = list(trace.notes)
    import_function(graph, trace, function, wanted, task.variables)
    finish(graph, trace)
    return graph, kept  # masks over whole rows are tensors here by nature: that is no note


def _vision(family: ImageFamily) -> Body:
    return lambda trace, tensors: {names.IMAGE_EMBEDDINGS: family.vision(*tensors)}


def _prefill(task: Any, family: ImageFamily, slots: dict[str, Slot]) -> Body:
    """The rows run, what is kept of them is what their attentions look at: the same as `extend` writes to the slot of each layer."""

    def run(trace: Trace, tensors: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        family.prefill(*tensors)
        attentions = [marker for marker in trace.markers.values() if marker.op == "attention"]
        shapes = [(slot.num_key_value_heads, slot.head_dim, slot.value_head_dim) for slot in slots.values()]
        found = [(marker.inputs[KEY].shape[2], marker.inputs[KEY].shape[3], marker.inputs[VALUE].shape[3]) for marker in attentions]  # type: ignore[union-attr]
        if found != shapes:
            message = f"{type(task).__name__}: the layers that run a prompt with images do not fit the caches of the text model"
            raise UnsupportedError("KX384", message, hint="convert it for texts alone: --text-only", detail=f"{found} {shapes}")
        kept = {f"{names.KEYS}.{layer}": marker.inputs[KEY] for layer, marker in enumerate(attentions)}
        return kept | {f"{names.VALUES}.{layer}": marker.inputs[VALUE] for layer, marker in enumerate(attentions)}

    return run
