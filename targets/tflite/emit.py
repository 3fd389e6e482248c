"""Graphs -> one model file: every signature is a walk over a graph with all sizes fixed, over one set of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from kexport.graphs.dims import BATCH, SEQUENCE
from kexport.graphs.ir import Graph
from kexport.graphs.passes import EndRows, FoldConstants, RemoveDeadCode, run_passes
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
    _check(graphs, options)
    main = graphs[names.EXTEND] if names.EXTEND in graphs else next(iter(graphs.values()))
    plan, slot_names = plan_file(graphs, options), SlotNames(main.slots, main.states)
    ready = _Ready(graphs)
    file_name = BUNDLE_FILE if options.package == LITERTLM else MODEL_FILE
    file, operators = ModelFile(), Counter[str]()
    signatures: dict[str, Signature] = {}
    fusions: dict[tuple[str, str], Fusion] = {}
    experts: dict[str, Experts] = {}
    for wanted in plan.signatures:
        subgraph, builder = render(ready.graph(wanted), wanted, plan, options, slot_names, file)
        if wanted.graph in names.FORWARD:
            signatures[wanted.graph] = records.whole_rows(wanted, file_name, subgraph, graphs[wanted.graph], signatures.get(wanted.graph))
        else:
            signatures[wanted.name] = records.signature(wanted, file_name, subgraph)
        if wanted.graph == main.name or wanted.graph not in names.FORWARD:
            fusions |= {(fusion.layer, fusion.form): fusion for fusion in builder.fusions}
            experts |= {one.layer: one for one in builder.experts if one.sparse or one.layer not in experts}
        operators.update(operator.form for operator in subgraph.operators)
    written = file.write(directory / MODEL_FILE, weights, options.on_tensor)
    return Emitted(
        signatures=tuple(signatures.values()),
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
    always = set(graph.inputs) if graph.name in names.FORWARD else ALWAYS_THERE | {slot_names.past_state(state) for state in graph.states}
    subgraph = builder.finish(file, outputs, frozenset(always))
    file.subgraphs.append(subgraph)
    return subgraph, builder


class _Ready:
    """The graphs as signatures take them, each made once: those with states for their number of tokens, on which the form of a recurrence depends.
    Rows of those over whole rows may end before their length."""

    def __init__(self, graphs: Mapping[str, Graph]) -> None:
        self._graphs = {name: _with_ends(graph) if name in names.FORWARD else graph for name, graph in graphs.items()}
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


def _with_ends(graph: Graph) -> Graph:
    """The graph for one row that is padded to the length of a signature, with -1 for ids."""
    graph = bound(graph, {BATCH: 1})
    (result,) = run_passes(graph, [EndRows()]).values()
    if result.refusals:
        message = f"signature `{graph.name}`: {result.refusals[0]} mixes the tokens of a row, so that padding up to a fixed length would change its results"
        raise UnsupportedError("KX382", message, hint="choose another target: onnx, openvino or savedmodel")
    return graph


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
    if names.SCORE_GRADIENTS in graphs:
        raise UnsupportedError("KX382", "the TFLite target has no gradients", hint="--signatures score_gradients works with --target savedmodel")
    if not graphs:
        raise InternalError("KX920", "there is no graph to emit")
    if other := not_float32(graphs.values(), "TFLite"):
        raise UnsupportedError("KX237", other)
    if options.package == LITERTLM:
        _check_for_litertlm(graphs)


def _check_for_litertlm(graphs: Mapping[str, Graph]) -> None:
    """What LiteRT-LM runs: the steps of a decoder that keeps keys and values."""
    hint = "use --package tflite"
    if names.EXTEND not in graphs:
        raise UnsupportedError("KX236", "LiteRT-LM generates text, which a backbone does not", hint=hint)
    if graphs[names.EXTEND].states:
        raise UnsupportedError("KX236", "LiteRT-LM has no layout for models with recurrent layers", hint=hint)
    if names.EXTENT in graphs[names.EXTEND].inputs:
        raise UnsupportedError("KX236", f"LiteRT-LM cannot run this model: {geometry.EXTENT_IS_UNKNOWN}", hint=hint)
    if names.ENCODE in graphs:
        raise UnsupportedError("KX236", "LiteRT-LM has no layout for models with an encoder", hint=hint)
