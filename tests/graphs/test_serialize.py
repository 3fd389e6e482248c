"""A graph's file holds the whole graph, in one way only, and no other file passes for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kexport.graphs.arrays_json import READABLE, ArrayRecord, array_record, record_array
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.serialize import canonical, document, dumps, graph_of, loads
from kexport.graphs.verify import verify
from kexport.graphs.weights import Parameter, Weight, concatenate
from kexport.graphs.weights_json import DEEPEST, expression, weight_of
from kexport.runtime.contract.errors import InternalError, InvalidInputError

from tests.graphs.helpers import add_split, parameter

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=6)
PARAMETERS = st.builds(
    lambda name, rows, columns, dtype: Parameter((rows, columns), dtype, name),
    NAMES,
    *[st.integers(1, 4)] * 2,
    st.sampled_from(["float32", "bfloat16", "float16"]),
)
TRANSFORMS: list[Callable[[Weight], Weight]] = [
    lambda w: w.transpose((1, 0)),
    lambda w: w.reshape((w.shape[0] * w.shape[1], 1)),
    lambda w: w.cast("float32"),
    lambda w: w.cast("float16"),
    lambda w: w.plus(1.0),
    lambda w: w.plus(0.1),
    lambda w: w.pad(((0, 1), (2, 0))),
    lambda w: concatenate((w, w.plus(2.0)), 0),
    lambda w: concatenate((w, w), 1),
]


@st.composite
def weights(draw: Any) -> Weight:
    """A parameter under up to six transforms."""
    weight: Weight = draw(PARAMETERS)
    for transform in draw(st.lists(st.sampled_from(TRANSFORMS), max_size=6)):
        weight = transform(weight)
    return weight


@st.composite
def graphs(draw: Any) -> Graph:
    """A graph of random ops over named dims, with constants of every dtype, weights, slots and layers."""
    graph = Graph(draw(NAMES))
    graph.add_input("x", "float32", ("batch", "sequence", 4))
    graph.add_input("positions", "int32", ("batch", "sequence"))
    graph.slots["self.0"] = Slot("self", 2, 2, draw(st.integers(1, 3)), draw(st.sampled_from(["float32", "float16"])))
    value = "x"
    for index in range(draw(st.integers(0, 6))):
        layer = draw(st.sampled_from(["", "block/0", 'b\u00e9\n"q"']))
        choice = draw(st.integers(0, 5))
        if choice == 0:
            weight = draw(weights()).cast("float32")
            assume(graph.weights.get(f"weight:{weight.label}", weight) == weight)
            value = graph.add_node("linear", [value, graph.add_weight(Parameter((4, 4), "float32", f"w{index}"))], layer=layer)
            graph.outputs[f"w{index}"] = graph.add_node("neg", [graph.add_weight(weight)])
        elif choice == 1:
            array = np.asarray(draw(st.lists(st.floats(width=32), min_size=4, max_size=4)), np.float32)
            value = graph.add_node("add", [value, graph.add_constant(array)], layer=layer)
        elif choice == 2:
            value = graph.add_node("rms_norm", [value, parameter(graph, f"n{index}", 4)], epsilon=draw(st.floats(1e-12, 1)), offset=1.0)
        elif choice == 3:
            first, second = add_split(graph, value, 2, (1, 3))
            graph.outputs[f"part{index}"] = first
            value = graph.add_node("concat", [second, first], axis=2)
        elif choice == 4:
            value = graph.add_node(
                "reshape", [graph.add_node("reshape", [value], shape=("4*batch*sequence",))], shape=("batch", "sequence", 4)
            )
        else:
            heads = graph.add_node("reshape", [value], shape=("batch", "sequence", 2, 2))
            graph.outputs[f"keys{index}"] = (
                graph.add_node("cache_write", [heads, "positions"], slot="self.0", part=0)
                if f"keys{index}" not in graph.outputs and not any(n.op == "cache_write" for n in graph.nodes)
                else heads
            )
    graph.outputs["y"] = value
    return graph


@settings(max_examples=150, deadline=None)
@given(graph=graphs())
def test_a_graph_survives_the_file(graph: Graph) -> None:
    """Reading what was written gives an equal graph, and writing it again equal bytes."""
    verify(graph)
    text = dumps(graph)
    again = loads(text)
    assert dumps(again) == text and text.isascii()
    assert (again.name, again.inputs, again.outputs, again.nodes, again.slots) == (
        graph.name,
        graph.inputs,
        graph.outputs,
        graph.nodes,
        graph.slots,
    )
    assert again.weights == graph.weights and again.types == graph.types
    assert list(again.outputs) == list(graph.outputs) and list(again.inputs) == list(graph.inputs)
    for name, array in graph.constants.items():
        assert (again.constants[name].dtype, again.constants[name].shape) == (array.dtype, array.shape)
        assert again.constants[name].tobytes() == array.tobytes()


def test_the_order_of_constants_and_weights_does_not_show() -> None:
    """Equal graphs give equal bytes, in whatever order their tables were filled."""
    texts = []
    for order in (("a", "b"), ("b", "a")):
        graph = Graph("g")
        for name in order:
            graph.add_constant(np.float32(ord(name)), name)
            graph.add_weight(Parameter((), "float32", name))
        graph.outputs["y"] = graph.add_node("add", ["a", "weight:b"], output="y")
        graph.outputs["z"] = graph.add_node("add", ["b", "weight:a"], output="z")
        texts.append(dumps(graph))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float32", "float16", "bfloat16", "float64", "uint8"])
@pytest.mark.parametrize("size", [0, 1, READABLE, READABLE + 1])
def test_a_constant_of_any_dtype_keeps_its_bytes(dtype: str, size: int) -> None:
    """Short and long, as numbers or as bytes."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    array = (np.random.default_rng(0).standard_normal((size, 1)) * 3).astype(kind)
    record = json.loads(json.dumps(array_record(array)))
    again = record_array(
        ArrayRecord(dtype=record["dtype"], shape=tuple(record["shape"]), values=record.get("values"), base64=record.get("base64"))
    )
    assert (again.dtype, again.shape, again.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, -0.0])
def test_odd_floats_survive(number: float) -> None:
    """NaN and infinity have no place in JSON numbers, minus zero has; all come back to the bit."""
    graph = Graph("g")
    graph.outputs["y"] = graph.add_constant(np.array([number], np.float32), "c")
    assert loads(dumps(graph)).constants["c"].tobytes() == np.array([number], np.float32).tobytes()


@settings(max_examples=100, deadline=None)
@given(weight=weights())
def test_a_weight_survives(weight: Weight) -> None:
    """The expression tree gives an equal weight: same shape, dtype, label."""
    again = weight_of(json.loads(json.dumps(expression(weight))))
    assert again == weight and again.label == weight.label


def small() -> dict[str, Any]:
    """A document to break."""
    graph = Graph("g")
    graph.add_input("x", "float32", ("batch", 4))
    graph.slots["self.0"] = Slot("self", 1, 2, 2)
    weight = concatenate((Parameter((2, 4), "float32", "p"), Parameter((2, 4), "float32", "q")), 0).transpose((1, 0))
    value = graph.add_node("linear", ["x", graph.add_weight(weight)], layer="l")
    graph.outputs["y"] = graph.add_node("add", [value, graph.add_constant(np.array([1, 2, 3, 4], np.float32), "c")])
    return json.loads(dumps(graph))  # type: ignore[no-any-return]


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(one: Any) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for part in way:
            one = one[part]
        one[last] = value

    return edit


WEIGHT = "weight:p+q.t10"
BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a future version": _set("version", 2),
    "no version": lambda d: d.pop("version"),
    "an unknown key": _set("extra", 1),
    "an unknown op": _set("nodes/0/op", "frobnicate"),
    "an unknown key in a node": _set("nodes/0/dtype", "float32"),
    "an input nobody makes": _set("nodes/0/inputs", ["nothing", WEIGHT]),
    "too many inputs": _set("nodes/0/inputs", ["x"] * 9),
    "two outputs of one": _set("nodes/0/outputs", ["linear_2", "b"]),
    "an output produced twice": _set("nodes/0/outputs", ["x"]),
    "an unknown attribute": _set("nodes/0/attrs", {"axis": 1}),
    "an attribute that is an object": _set("nodes/0", {"op": "reshape", "inputs": ["x"], "outputs": ["r"], "attrs": {"shape": {}}}),
    "an attribute of the wrong kind": _set("nodes/0", {"op": "reshape", "inputs": ["x"], "outputs": ["r"], "attrs": {"shape": 3}}),
    "a graph output that is not made": _set("outputs/0", ["y", "nowhere"]),
    "two outputs of one name": lambda d: d["outputs"].append(d["outputs"][0]),
    "two inputs of one name": lambda d: d["inputs"].append(d["inputs"][0]),
    "an input of unknown dtype": _set("inputs/0", ["x", "float99", ["batch", 4]]),
    "a negative size": _set("inputs/0", ["x", "float32", ["batch", -4]]),
    "an empty dim": _set("inputs/0", ["x", "float32", ["", 4]]),
    "a dim not in canonical form": _set("inputs/0", ["x", "float32", ["batch*2", 4]]),
    "a slot of unknown kind": _set("slots/0/1/kind", "other"),
    "too few numbers": _set("constants/c/values", [1.0]),
    "numbers and bytes": _set("constants/c/base64", "AAAA"),
    "bytes that are no base64": _set("constants/c", {"dtype": "float32", "shape": [4], "base64": "?"}),
    "half a number": _set("constants/c", {"dtype": "float32", "shape": [1], "base64": "AAAA"}),
    "fractions of an integer": _set("constants/c", {"dtype": "int32", "shape": [1], "values": [1.5]}),
    "an integer beyond its dtype": _set("constants/c", {"dtype": "int32", "shape": [1], "values": [2**40]}),
    "a bool of 7": _set("constants/c", {"dtype": "bool", "shape": [1], "base64": "Bw=="}),
    "a constant of unknown dtype": _set("constants/c/dtype", "float99"),
    "a weight of unknown kind": _set(f"weights/{WEIGHT}/kind", "rotated"),
    "a weight under another name": lambda d: d["weights"].update({"weight:z": d["weights"][WEIGHT]}),
    "a permutation that is none": _set(f"weights/{WEIGHT}/permutation", [1, 1]),
    "a transform of nothing": _set(f"weights/{WEIGHT}/of", []),
    "an unknown key in a weight": _set(f"weights/{WEIGHT}/scale", 2),
    "weights that do not join": _set(f"weights/{WEIGHT}/of/0/of/0/shape", [2, 3]),
    "a negative axis": _set(f"weights/{WEIGHT}/of/0/axis", -1),
    "a parameter without a name": lambda d: d["weights"][WEIGHT]["of"][0]["of"][0].pop("name"),
}


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_a_broken_document_is_refused(what: str) -> None:
    """One clear error that says it is the graph's file, whatever is wrong with it."""
    one = small()
    graph_of(one)
    BROKEN[what](one)
    with pytest.raises(InvalidInputError) as caught:
        graph_of(one)
    assert caught.value.code == "KX470" and caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"version": 1}', "[" * 100_000, b"\xff\xfe{}"])
def test_text_that_is_no_graph_is_refused(text: Any) -> None:
    """Empty, cut off, another document, too deep, another encoding."""
    with pytest.raises(InvalidInputError, match="KX470"):
        loads(text)


def test_a_weight_nested_without_end_is_refused() -> None:
    """Depth is bounded before Python's own bound is met."""
    one = small()
    tree = one["weights"][WEIGHT]
    for _ in range(DEEPEST + 2):
        tree = {"kind": "shifted", "offset": 1.0, "of": [tree]}
    one["weights"][WEIGHT] = tree
    with pytest.raises(InvalidInputError, match="KX470"):
        graph_of(one)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_value_replaced_anywhere_is_read_or_refused(data: Any) -> None:
    """Fuzz: no replaced value leads to anything but a graph or an InvalidInputError."""
    one = small()
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(one)
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(-2, 9), max_size=4), st.just({})
        )
    )
    try:
        verify(graph_of(one))
    except InvalidInputError as error:
        assert error.code == "KX470"


@pytest.mark.parametrize("value", [np.float32(1), np.int64(3), float("nan"), float("inf"), [1]])
def test_an_attribute_json_cannot_hold_exactly_is_a_bug(value: Any) -> None:
    """A numpy scalar prints like a number, but equal graphs would give different bytes."""
    graph = Graph("g")
    graph.add_input("x", "float32", (2,))
    graph.outputs["y"] = graph.add_node("softmax", ["x"], axis=-1)
    graph.nodes[0].attrs["axis"] = value
    with pytest.raises(InternalError, match="KX909"):
        document(graph)


def test_canonical_text_reads_line_by_line() -> None:
    """Sorted keys, one item a line in the outer levels, no NaN."""
    assert canonical({"b": [1, {"d": 1, "c": 2}], "a": {}}, 2) == '{\n "a": {},\n "b": [\n  1,\n  {"c":2,"d":1}\n ]\n}\n'
    with pytest.raises(InternalError, match="KX909"):
        canonical({"a": float("nan")})
