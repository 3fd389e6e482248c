"""Graphs -> ONNX files: decompose what has no lowering, pad odd heads, walk the nodes, assemble, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from kexport.graphs.ir import Graph
from kexport.graphs.weights import Weight, WeightSource
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InternalError, UnsupportedError, UsageError
from kexport.runtime.contract.manifest import Experts, File, Fusion, Signature
from kexport.targets.base import EmitOptions, Emitted, StoredTensor
from kexport.targets.float32_caches import not_float32
from kexport.targets.geometry import fusions as all_fusions
from kexport.targets.geometry import geometry
from kexport.targets.lowerable import lowerable
from kexport.targets.onnx import ops as _ops  # noqa: F401  fills LOWERINGS
from kexport.targets.onnx import records
from kexport.targets.onnx.assemble import assemble
from kexport.targets.onnx.builder import Builder
from kexport.targets.onnx.interface import ALWAYS_THERE, declare_inputs, final_outputs
from kexport.targets.onnx.lowering import LOWERINGS
from kexport.targets.onnx.pad_heads import pad_heads
from kexport.targets.onnx.write import external, reuse, write_model
from kexport.targets.slot_names import SlotNames

STORED_DTYPES = ("float32", "float16", "bfloat16")
ENCODER_DECODER_FILES = {names.ENCODE: "encoder_model.onnx", names.EXTEND: "decoder_model.onnx"}
DECODER_FILES = {names.EXTEND: "model.onnx", names.BACKBONE: "model.onnx"}


def emit(graphs: Mapping[str, Graph], weights: WeightSource, directory: Path, options: EmitOptions) -> Emitted:
    """Write `model.onnx`, or `encoder_model.onnx` and `decoder_model.onnx` where there is an `encode` graph, each with its `.data`.
    Graphs over whole rows are `<signature>_model.onnx` beside them, a backbone alone is `model.onnx`; weights that an earlier file holds as
    they are needed are referred to there.

    Raises:
        UnsupportedError: an op without lowering or decomposition, a dtype ONNX Runtime cannot compute with, or `opset_only`.
        UsageError: a stored dtype that does not exist, or a capacity below 1.
    """
    _check(graphs, options)
    main = graphs[names.EXTEND] if names.EXTEND in graphs else next(iter(graphs.values()))
    file_names = ENCODER_DECODER_FILES if names.ENCODE in graphs else DECODER_FILES
    slot_names = SlotNames(main.slots, main.states)
    signatures: list[Signature] = []
    fusions: list[Fusion] = []
    experts: list[Experts] = []
    files: list[File] = []
    replaceable: list[StoredTensor] = []
    operators: Counter[str] = Counter()
    stored = main.slots
    written: dict[Any, ir.ExternalTensor] = {}
    for name, graph in graphs.items():
        ready = pad_heads(lowerable(graph, LOWERINGS, _refusal))
        if graph is main:
            stored = ready.slots
        model, builder = render(ready, weights, options, slot_names)
        file = file_names.get(name, f"{name}_model.onnx")
        signatures.append(records.signature(name, file, model, graph))
        if graph is main or name not in names.FORWARD:
            fusions += builder.fusions
            experts += builder.experts
        operators.update(node.op_type for node in ir.traversal.RecursiveGraphIterator(model.graph))
        changed = _replaceable(builder, model)
        reuse(model, builder.initializers, written)
        files += write_model(model, directory / file, options.on_tensor, changed)
        written.update(external(model, builder.initializers))
        replaceable += [_stored(file, name, weight, model) for name, weight in changed.items()]
    return Emitted(
        signatures=tuple(signatures),
        cache=records.cache(main, slot_names, stored, options.capacity),
        fusions=all_fusions(main, fusions),
        ops=dict(sorted(operators.items())),
        files=tuple(files),
        geometry=geometry(main, stored),
        replaceable=tuple(replaceable),
        experts=tuple(experts),
    )


def _replaceable(b: Builder, model: ir.Model) -> dict[str, Weight]:
    """The initializers that the caller wants to replace when the model is opened."""
    weights = {name: content for name, content in b.initializers.items() if isinstance(content, Weight) and name in model.graph.initializers}
    return {name: weight for name, weight in weights.items() if b.options.is_replaceable(weight)}


def _stored(file: str, name: str, weight: Weight, model: ir.Model) -> StoredTensor:
    tensor = model.graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor) and tensor.offset is not None
    return StoredTensor(file, name, weight, str(tensor.location), tensor.offset)


def render(graph: Graph, weights: WeightSource, options: EmitOptions, slot_names: SlotNames | None = None) -> tuple[ir.Model, Builder]:
    """The model of one graph, its weights still unread, and the builder that knows how it was made."""
    slot_names = slot_names or SlotNames(graph.slots, graph.states)
    builder = Builder(graph, options)
    declare_inputs(builder, slot_names)
    for node in graph.nodes:
        builder.scope(node)
        LOWERINGS[node.op].lower(node, builder)
    builder.scope_end()
    outputs = final_outputs(builder, graph, slot_names)
    keep = ALWAYS_THERE | {name for slot in graph.slots for name in slot_names.past(slot)} | {slot_names.past_state(state) for state in graph.states}
    keep |= set(graph.inputs) if graph.name in names.FORWARD else set()
    return assemble(builder, outputs, weights, frozenset(keep)), builder


def _refusal(op: str, place: str) -> UnsupportedError:
    return UnsupportedError("KX212", f"op `{op}`{place} has neither an ONNX lowering nor a decomposition")


def _refuse_gradients(graphs: Mapping[str, Graph]) -> None:
    if names.SCORE_GRADIENTS in graphs:
        raise UnsupportedError("KX382", "the ONNX target has no gradients", hint="--signatures score_gradients works with --target savedmodel")


def _check(graphs: Mapping[str, Graph], options: EmitOptions) -> None:
    if options.opset_only:
        raise UnsupportedError("KX213", "ONNX without contrib operators is not built yet", hint="leave out --opset-only")
    if options.stored_dtype not in STORED_DTYPES:
        raise UnsupportedError(
            "KX214", f"the ONNX target cannot store weights as `{options.stored_dtype}`", hint=f"--dtype takes {', '.join(STORED_DTYPES)}"
        )
    if options.capacity < 1:
        raise UsageError("KX103", f"--max-length is {options.capacity}", hint="give a capacity of at least one token")
    _refuse_gradients(graphs)
    if not graphs:
        raise InternalError("KX920", "there is no graph to emit")
    if other := not_float32(graphs.values(), "ONNX"):
        raise UnsupportedError("KX215", other)
