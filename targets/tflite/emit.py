"""Graphs -> one model file: every signature is a walk over a graph with all sizes fixed, over one set of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from kexport.graphs.dims import SEQUENCE
from kexport.graphs.ir import Graph
from kexport.graphs.passes import FoldConstants, RemoveDeadCode
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InternalError, UnsupportedError
from kexport.runtime.contract.manifest import Experts, Fusion, Signature
from kexport.targets import geometry
from kexport.targets.base import EmitOptions, Emitted
from kexport.targets.float32_caches import not_float32
from kexport.targets.lowerable import bound, lowerable
from kexport.targets.tflite import ops as _ops  # noqa: F401  fills LOWERINGS
from kexport.targets.tflite import records
from kexport.targets.tflite.builder import Builder
from kexport.targets.tflite.interface import ALWAYS_THERE, SlotNames, declare_inputs, final_outputs
from kexport.targets.tflite.lowering import LOWERINGS
from kexport.targets.tflite.model_file import ModelFile, Subgraph
from kexport.targets.tflite.plan import LITERTLM, FilePlan, SignaturePlan, plan_file

STORED_DTYPES = ("float32", "float16")
MODEL_FILE = "model.tflite"
BUNDLE_FILE = "model.litertlm"
PACKAGES = ("", "tflite", LITERTLM)


def emit(graphs: Mapping[str, Graph], weights: WeightSource, directory: Path, options: EmitOptions) -> Emitted:
    """Write `model.tflite`. With package `litertlm` the signatures say `model.litertlm`, which `write_vendor_files` makes of it.

    Raises:
        UnsupportedError: an op without lowering or decomposition, a dtype or a package that the target cannot write.
        UsageError: a capacity or a bucket below 1.
    """
    whole_rows = [name for name in graphs if name in names.FORWARD and name not in names.IMAGES]
    if whole_rows:
        hint = "choose another target: onnx, openvino or savedmodel"
        raise UnsupportedError("KX382", f"the TFLite target, whose shapes are fixed, has no signature `{whole_rows[0]}` over whole rows", hint=hint)
    _check(graphs, options)
    main = graphs[names.EXTEND]
    plan, slot_names = plan_file(graphs, options), SlotNames(main.slots, main.states)
    ready = _Ready(graphs)
    file_name = BUNDLE_FILE if options.package == LITERTLM else MODEL_FILE
    file, operators = ModelFile(), Counter[str]()
    signatures: list[Signature] = []
    fusions: dict[tuple[str, str], Fusion] = {}
    experts: dict[str, Experts] = {}
    for wanted in plan.signatures:
        subgraph, builder = render(ready.graph(wanted), wanted, plan, options, slot_names, file)
        signatures.append(records.signature(wanted, file_name, subgraph))
        if wanted.graph not in names.IMAGES:
            fusions |= {(fusion.layer, fusion.form): fusion for fusion in builder.fusions}
        experts |= {one.layer: one for one in builder.experts if one.sparse or one.layer not in experts}
        operators.update(operator.form for operator in subgraph.operators)
    written = file.write(directory / MODEL_FILE, weights, options.on_tensor)
    return Emitted(
        signatures=tuple(signatures),
        cache=records.cache(main, slot_names, options.capacity, plan.encoder_capacity if names.ENCODE in graphs else 0),
        fusions=geometry.fusions(main, fusions.values()),
        ops=dict(sorted(operators.items())),
        files=(written,),
        geometry=geometry.geometry(main, main.slots),
        experts=tuple(experts.values()),
    )


def render(
    graph: Graph, wanted: SignaturePlan, plan: FilePlan, options: EmitOptions, slot_names: SlotNames, file: ModelFile
) -> tuple[Subgraph, Builder]:
    """The subgraph of one signature, entered into `file`, and the builder that knows how it was made."""
    builder = Builder(graph, wanted.name, wanted.sizes, plan.cache_length, options)
    declare_inputs(builder, slot_names, plan.encoder_capacity)
    for node in graph.nodes:
        builder.scope(node)
        LOWERINGS[node.op].lower(node, builder)
    outputs = final_outputs(builder, graph, slot_names, with_logits=wanted.with_logits, encoder_capacity=plan.encoder_capacity)
    subgraph = builder.finish(file, outputs, ALWAYS_THERE | {slot_names.past_state(state) for state in graph.states})
    file.subgraphs.append(subgraph)
    return subgraph, builder


class _Ready:
    """The graphs as signatures take them, each made once: those with states for their number of tokens, on which the form of a recurrence depends."""

    def __init__(self, graphs: Mapping[str, Graph]) -> None:
        self._graphs = graphs
        self._made: dict[tuple[str, int], Graph] = {}

    def graph(self, wanted: SignaturePlan) -> Graph:
        """The graph of a signature."""
        graph = self._graphs[wanted.graph]
        key = (wanted.graph, wanted.sequence if graph.states else 0)
        if key not in self._made:
            sizes = {SEQUENCE: wanted.sequence} if graph.states else {}
            folded = (FoldConstants(), RemoveDeadCode()) if graph.states else ()
            self._made[key] = lowerable(bound(graph, sizes) if sizes else graph, LOWERINGS, _refusal, folded)
        return self._made[key]


def _refusal(op: str, place: str) -> UnsupportedError:
    return UnsupportedError("KX233", f"op `{op}`{place} has neither a TFLite lowering nor a decomposition")


def _check(graphs: Mapping[str, Graph], options: EmitOptions) -> None:
    if options.stored_dtype not in STORED_DTYPES:
        hint = f"--dtype takes {' or '.join(STORED_DTYPES)} with this target"
        raise UnsupportedError(
            "KX234", f"the TFLite target cannot store weights as `{options.stored_dtype}`: no CPU kernel reads it", hint=hint
        )
    if options.package not in PACKAGES:
        raise UnsupportedError("KX235", f"the TFLite target has no package `{options.package}`", hint="--package takes tflite or litertlm")
    if names.EXTEND not in graphs:
        raise InternalError("KX920", "there is no `extend` graph to emit")
    if options.package == LITERTLM and graphs[names.EXTEND].states:
        raise UnsupportedError("KX236", "LiteRT-LM has no layout for models with recurrent layers", hint="use --package tflite")
    if options.package == LITERTLM and names.EXTENT in graphs[names.EXTEND].inputs:
        raise UnsupportedError("KX236", f"LiteRT-LM cannot run this model: {geometry.EXTENT_IS_UNKNOWN}", hint="use --package tflite")
    if options.package == LITERTLM and names.ENCODE in graphs:
        raise UnsupportedError("KX236", "LiteRT-LM has no layout for models with an encoder", hint="use --package tflite")
    if other := not_float32(graphs.values(), "TFLite"):
        raise UnsupportedError("KX237", other)
