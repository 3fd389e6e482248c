"""Graphs -> OpenVINO files: decompose what has no lowering, pack products, walk the nodes while the weights stream to the `.bin`, serialize.

Graphs over whole rows have no `.bin` of their own: they stand on the main model's, behind whose weights comes what it does not hold in the form they need.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from kexport.graphs.ir import Graph
from kexport.graphs.passes import PackProducts
from kexport.graphs.weights import WeightSource
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InternalError, UnsupportedError, UsageError
from kexport.runtime.contract.manifest import Experts, File, Fusion, Signature
from kexport.targets import geometry
from kexport.targets.base import EmitOptions, Emitted, StoredTensor
from kexport.targets.float32_caches import not_float32
from kexport.targets.lowerable import lowerable
from kexport.targets.openvino import ops as _ops  # noqa: F401  fills LOWERINGS
from kexport.targets.openvino import records
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.interface import declare_inputs, final_outputs, model_of
from kexport.targets.openvino.ir_file import write_ir
from kexport.targets.openvino.lowering import LOWERINGS
from kexport.targets.openvino.weight_file import WeightFile
from kexport.targets.slot_names import SlotNames

STORED_DTYPES = ("float32", "float16", "bfloat16")
ENCODER_DECODER_FILES = {names.ENCODE: "openvino_encoder_model.xml", names.EXTEND: "openvino_decoder_model.xml"}
DECODER_FILES = {names.EXTEND: "openvino_model.xml", names.BACKBONE: "openvino_model.xml"}
SINGLE_FILE = "openvino_model.xml"  # of a graph alone, whatever it is called
# The plugin fuses an activation into the product before it, and one row through that product reads memory at 20 GB/s where others read at 34
# (measured: 12 of 61 products took 28 % of a step). A gate packed with its values is split before its activation: nothing is fused.
PASSES = (PackProducts(),)


def emit(graphs: Mapping[str, Graph], weights: WeightSource, directory: Path, options: EmitOptions) -> Emitted:
    """Write `openvino_model.xml`, or `openvino_encoder_model.xml` and `openvino_decoder_model.xml` where there is an `encode` graph, each
    with its `.bin`. Graphs over whole rows are `openvino_<signature>_model.xml` beside them, over the `.bin` of the model that gives logits (or of
    the backbone); a backbone alone is `openvino_model.xml`.

    Raises:
        UnsupportedError: an op without lowering or decomposition, a dtype OpenVINO cannot store, or `opset_only`.
        UsageError: a capacity below 1.
    """
    _check(graphs, options)
    main = graphs[names.EXTEND] if names.EXTEND in graphs else next(iter(graphs.values()))
    places = _places(graphs, main)
    slot_names = SlotNames(main.slots, main.states)
    signatures: list[Signature] = []
    fusions: list[Fusion] = []
    experts: list[Experts] = []
    files: list[File] = []
    replaceable: list[StoredTensor] = []
    operators: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        bins = {data: stack.enter_context(contextlib.closing(WeightFile(directory / data, options.on_tensor))) for _, data in places.values()}
        for name, graph in graphs.items():
            file, data = places[name]
            builder, written, record, counted = _write(name, graph, weights, directory / file, bins[data], options, slot_names)
            signatures.append(record)
            if graph is main or name not in names.FORWARD:
                fusions += builder.fusions
                experts += builder.experts
            operators.update(counted)
            files.append(written)
            replaceable += [StoredTensor(file, label, weight, data, builder.places[label].offset) for label, weight in builder.replaceable.items()]
        files += [weight_file.close() for weight_file in bins.values()]
    return Emitted(
        signatures=tuple(signatures),
        cache=geometry.cache(main, slot_names, main.slots, options.capacity, records.LAYOUT),
        fusions=geometry.fusions(main, fusions),
        ops=dict(sorted(operators.items())),
        files=tuple(files),
        geometry=geometry.geometry(main, main.slots),
        replaceable=tuple(replaceable),
        experts=tuple(experts),
    )


def _places(graphs: Mapping[str, Graph], main: Graph) -> dict[str, tuple[str, str]]:
    """Each graph's model file and the `.bin` that it stands on."""
    file_names = ENCODER_DECODER_FILES if names.ENCODE in graphs else DECODER_FILES
    files = {name: SINGLE_FILE if len(graphs) == 1 else file_names.get(name, f"openvino_{name}_model.xml") for name in graphs}
    (of_main,) = (files[name] for name, graph in graphs.items() if graph is main)
    return {name: (file, _bin_of(of_main if name in names.FORWARD else file)) for name, file in files.items()}


def _bin_of(file: str) -> str:
    return Path(file).with_suffix(".bin").name


def _write(
    name: str, graph: Graph, weights: WeightSource, path: Path, data: WeightFile, options: EmitOptions, slot_names: SlotNames
) -> tuple[Builder, File, Signature, Counter[str]]:
    """One graph's file, its record, and how many operators of each kind it has."""
    b = Builder(lowerable(graph, LOWERINGS, _refusal, PASSES), options, weights, data)
    declare_inputs(b, slot_names)
    for node in b.graph.nodes:
        LOWERINGS[node.op](node, b)
    model = model_of(b, final_outputs(b, slot_names))
    record = records.signature(name, path.name, model, b, geometry.longest_call(graph))
    return b, write_ir(model, path, data, b.places), record, Counter(node.get_type_name() for node in model.get_ordered_ops())


def _refusal(op: str, place: str) -> UnsupportedError:
    return UnsupportedError("KX212", f"op `{op}`{place} has neither an OpenVINO lowering nor a decomposition")


def _check(graphs: Mapping[str, Graph], options: EmitOptions) -> None:
    if options.opset_only:
        raise UnsupportedError("KX213", "--opset-only is an option of the ONNX target", hint="leave out --opset-only")
    if options.stored_dtype not in STORED_DTYPES:
        raise UnsupportedError(
            "KX214", f"the OpenVINO target cannot store weights as `{options.stored_dtype}`", hint=f"--dtype takes {', '.join(STORED_DTYPES)}"
        )
    if options.capacity < 1:
        raise UsageError("KX103", f"--max-length is {options.capacity}", hint="give a capacity of at least one token")
    if names.SCORE_GRADIENTS in graphs:
        raise UnsupportedError("KX382", "the OpenVINO target has no gradients", hint="--signatures score_gradients works with --target savedmodel")
    if not graphs:
        raise InternalError("KX920", "there is no graph to emit")
    if other := not_float32(graphs.values(), "OpenVINO"):
        raise UnsupportedError("KX215", other)
