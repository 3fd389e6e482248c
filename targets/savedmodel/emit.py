"""Graphs -> one SavedModel: each signature a function traced from a graph, over one set of variables that hold nothing while it is traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from kexport.graphs.dims import SEQUENCE
from kexport.graphs.ir import Graph
from kexport.graphs.passes import PackProducts
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InternalError, UnsupportedError, UsageError
from kexport.runtime.contract.manifest import Experts, Fusion, Signature, TensorSpec
from kexport.targets import geometry
from kexport.targets.base import EmitOptions, Emitted
from kexport.targets.lowerable import bound, lowerable
from kexport.targets.savedmodel import checkpoint, generate, gradients, records
from kexport.targets.savedmodel import ops as _ops  # noqa: F401  fills LOWERINGS
from kexport.targets.savedmodel.allowed_ops import count_operators
from kexport.targets.savedmodel.builder import Tensor
from kexport.targets.savedmodel.interface import Rendered, SlotNames, inputs_of, outputs_of, render, tensorflow_specs
from kexport.targets.savedmodel.lowering import LOWERINGS
from kexport.targets.savedmodel.weight_tensors import WeightTensors

STORED_DTYPES = ("float32", "float16", "bfloat16")
MODEL_FILE = "saved_model.pb"
GRAPHS = {names.PREFILL: names.EXTEND, names.DECODE: names.EXTEND, names.ENCODE: names.ENCODE}
Body = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def emit(graphs: Mapping[str, Graph], weights: WeightSource, directory: Path, options: EmitOptions) -> Emitted:
    """Write `saved_model.pb` and `variables/`.

    Raises:
        UnsupportedError: an op without lowering or decomposition, or a dtype that the target cannot store.
        UsageError: a capacity below 1.
    """
    _check(graphs, options)
    ready = {name: _ready(graph) for name, graph in graphs.items()}
    work = _Emission(ready, options)
    for name, graph_name in GRAPHS.items():
        if graph_name in ready:
            one_token = name == names.DECODE and graphs[graph_name].states
            graph = _ready(bound(graphs[graph_name], {SEQUENCE: 1})) if one_token else ready[graph_name]
            work.add_graph(name, graph, geometry.longest_call(graphs[graph_name]))
    for name, graph in ready.items():
        if name == names.SCORE_GRADIENTS:
            work.add_gradients(graph)
        elif name in names.FORWARD:
            work.add_graph(name, graph)
    main = main_of(graphs)
    if names.LOGITS in main.outputs and main.slots and not main.states and names.EXTENT not in main.inputs:  # the loop feeds padded prompts whole
        work.add_generate()
    checkpoint.write(work.module(), work.functions, work.tensors.weights, weights, directory, options.on_tensor)
    return Emitted(
        signatures=tuple(work.signatures),
        cache=records.cache(main, work.slot_names, options.capacity),
        fusions=geometry.fusions(main, work.fusions.values()),
        ops=dict(sorted(count_operators(directory).items())),
        files=records.files(directory),
        geometry=geometry.geometry(main, main.slots),
        experts=tuple(work.experts.values()),
    )


class _Emission:
    """What the signatures share while they are traced."""

    def __init__(self, graphs: Mapping[str, Graph], options: EmitOptions) -> None:
        self.graphs, self.options = graphs, options
        self.slot_names = SlotNames(main_of(graphs).slots, main_of(graphs).states)
        self.tensors = WeightTensors(options.stored_dtype)
        self.functions: dict[str, Any] = {}
        self.signatures: list[Signature] = []
        self.fusions: dict[tuple[str, str], Fusion] = {}
        self.experts: dict[str, Experts] = {}

    def module(self) -> Any:
        """What is saved: the functions by name, the variables by label."""
        module = tf.Module()
        module.weights = dict(self.tensors.variables)
        for name, function in self.functions.items():
            setattr(module, name, function)
        return module

    def add_graph(self, name: str, graph: Graph, max_sequence: int | None = None) -> None:
        """The signature `name`: one call of a graph, of at most `max_sequence` tokens a row."""
        one_token = name == names.DECODE
        rendered: list[Rendered] = []

        def body(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            rendered.append(render(graph, tensors, self.slot_names, self.tensors, one_token=one_token))
            return rendered[-1].outputs

        inputs = inputs_of(graph, self.slot_names, one_token=one_token)
        self._trace(name, inputs, body)
        result = rendered[-1]
        if name not in names.FORWARD or name == names.BACKBONE:  # of the whole rows only those of a backbone alone, which has nothing else
            self.fusions |= {(fusion.layer, fusion.form): fusion for fusion in result.fusions}
            self.experts |= {one.layer: one for one in result.experts if one.sparse or one.layer not in self.experts}
        self.signatures.append(
            Signature(
                name=name,
                file=MODEL_FILE,
                inputs=inputs,
                outputs=outputs_of(graph, self.slot_names, result.outputs),
                sequence_lengths=(1,) if one_token else (),
                max_sequence=None if one_token else max_sequence,
                returns_logits="none" if names.LOGITS not in result.outputs else "all" if name in names.FORWARD else "last",
                weight_bytes=result.weight_bytes,
            )
        )

    def add_gradients(self, graph: Graph) -> None:
        """The signature `score_gradients`: loss and gradients over the graph."""

        def body(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            rendered = render(graph, tensors, self.slot_names, self.tensors).outputs
            return gradients.differentiated(rendered, tensors[names.TARGET_IDS])

        inputs = (*inputs_of(graph, self.slot_names, one_token=False), gradients.TARGETS)
        self._trace(names.SCORE_GRADIENTS, inputs, body)
        self.signatures.append(Signature(name=names.SCORE_GRADIENTS, file=MODEL_FILE, inputs=inputs, outputs=gradients.outputs(graph)))

    def add_generate(self) -> None:
        """The signature `generate`: the loop."""
        inputs = generate.inputs(self.graphs)
        self._trace(names.GENERATE, inputs, generate.Loop(self.graphs, self.slot_names, self.tensors, self.options.capacity))
        self.signatures.append(Signature(name=names.GENERATE, file=MODEL_FILE, inputs=inputs, outputs=generate.OUTPUTS))

    def _trace(self, name: str, inputs: tuple[TensorSpec, ...], body: Body) -> None:
        def function(**tensors: Tensor) -> dict[str, Tensor]:
            return body(tensors)

        function.__name__ = name
        self.functions[name] = tf.function(function, autograph=False).get_concrete_function(**tensorflow_specs(inputs))


def main_of(graphs: Mapping[str, Graph]) -> Graph:
    """The graph that has the caches; of a backbone, its forward."""
    return graphs[names.EXTEND] if names.EXTEND in graphs else next(iter(graphs.values()))


def _ready(graph: Graph) -> Graph:
    return lowerable(graph, LOWERINGS, _refusal, (PackProducts(),))


def _refusal(op: str, place: str) -> UnsupportedError:
    return UnsupportedError("KX240", f"op `{op}`{place} has neither a SavedModel lowering nor a decomposition")


def _check(graphs: Mapping[str, Graph], options: EmitOptions) -> None:
    if options.stored_dtype not in STORED_DTYPES:
        hint = f"--dtype takes {', '.join(STORED_DTYPES)} with this target"
        raise UnsupportedError("KX241", f"the SavedModel target cannot store weights as `{options.stored_dtype}`", hint=hint)
    if options.capacity < 1:
        raise UsageError("KX103", f"--max-length is {options.capacity}", hint="give a capacity of at least one token")
    if not {names.EXTEND, names.BACKBONE} & set(graphs):
        raise InternalError("KX920", f"there is neither an `{names.EXTEND}` nor a `{names.BACKBONE}` graph to emit")
