"""Each op's numbers, against a formula that is not the interpreter's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from kexport.graphs.dims import evaluate as size_of
from kexport.graphs.interpreter import new_caches, run
from kexport.graphs.ir import Graph, Slot
from kexport.graphs.ops import OPS
from kexport.graphs.ops.joint_attention import INPUTS as JOINT_INPUTS

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
IDS = np.array([[3, 0, 1], [2, 2, 4]], np.int32)


def evaluate(op: str, *arrays: Any, outputs: int = 1, dims: dict[str, int] | None = None, **attrs: Any) -> Any:
    """One op on constants."""
    graph = Graph("test")
    inputs = [
        graph.add_input(f"x{index}", array.dtype.name, array.shape) if array is not None else "" for index, array in enumerate(arrays)
    ]
    if outputs == 1:
        graph.outputs["y"] = graph.add_node(op, inputs, **attrs)
    else:
        from kexport.graphs.ir import Node
        from kexport.graphs.ops import infer_types

        node = Node(op, tuple(inputs), tuple(f"y{index}" for index in range(outputs)), attrs)
        graph.types.update(zip(node.outputs, infer_types(graph, node), strict=True))
        graph.nodes.append(node)
        graph.outputs = {name: name for name in node.outputs}
    results = run(graph, {f"x{index}": array for index, array in enumerate(arrays) if array is not None}, None, None, **(dims or {}))
    for name, value in results.items():
        type_ = graph.type_of(graph.outputs[name])
        shape = tuple(size_of(dim, dims or {}) for dim in type_.shape)
        assert (value.dtype.name, value.shape) == (type_.dtype, shape), f"{op} promised {type_}"
    return results["y"] if outputs == 1 else tuple(results.values())


def elementwise(function: Any, *arrays: Any) -> Any:
    """A scalar function of Python's own, number by number."""
    broadcast = np.broadcast_arrays(*arrays)
    return np.array([function(*map(float, numbers)) for numbers in zip(*(array.ravel() for array in broadcast), strict=True)]).reshape(
        broadcast[0].shape
    )


UNARY: dict[str, Any] = {
    "neg": lambda x: -x,
    "abs": abs,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: x**-0.5,
    "exp": math.exp,
    "log": math.log,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": lambda x: math.log1p(math.exp(x)),
    "relu": lambda x: x if x > 0 else 0.0,
    "erf": math.erf,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
}
BINARY: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "max": max,
    "min": min,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
}


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    """Number by number."""
    x = POSITIVE if op in ("sqrt", "rsqrt", "log") else X
    np.testing.assert_allclose(evaluate(op, x), elementwise(UNARY[op], x), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("op", BINARY)
def test_binary_broadcasts(op: str) -> None:
    """Number by number, a row against a stack of matrices; equal numbers included."""
    right = POSITIVE[1, 1]
    left = POSITIVE.copy()
    left[0, 0] = right
    np.testing.assert_allclose(evaluate(op, left, right), elementwise(BINARY[op], left, right), rtol=2e-6)


def test_binary_of_integers() -> None:
    """Integers stay integers."""
    assert evaluate("mul", IDS, np.int32(3)).tolist() == (IDS * 3).tolist()


def test_logic() -> None:
    """and, or, not."""
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert evaluate("and", a, b).tolist() == [True, False, False, False]
    assert evaluate("or", a, b).tolist() == [True, True, True, False]
    assert evaluate("not", a).tolist() == [False, False, True, True]


def test_where() -> None:
    """The first where true, else the second; the condition broadcasts."""
    got = evaluate("where", np.array([True, False, True, False]), X, -X)
    assert np.array_equal(got, np.stack([X[..., 0], -X[..., 1], X[..., 2], -X[..., 3]], -1))


def test_cast() -> None:
    """To integers by truncation, to bool by being zero."""
    x = np.array([-1.7, 0.0, 2.5], np.float32)
    assert evaluate("cast", x, dtype="int32").tolist() == [-1, 0, 2]
    assert evaluate("cast", x, dtype="bool").tolist() == [True, False, True]


def test_gelu_by_tanh_is_close_to_gelu() -> None:
    """The approximation is an approximation: near the exact one, and not it."""
    exact, approximate = evaluate("gelu", X), evaluate("gelu", X, approximate=True)
    assert 1e-5 < np.abs(exact - approximate).max() < 2e-3


def test_matmul() -> None:
    """Sums of products; leading axes broadcast."""
    b = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    expected = [[[sum(float(X[i, j, k]) * float(b[k, n]) for k in range(4)) for n in range(5)] for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(evaluate("matmul", X, b), expected, rtol=1e-5)


def test_linear_is_matmul_and_bias() -> None:
    """x @ w + b."""
    w, b = X[0, :, :2].T.copy(), np.array([1, 2, 3], np.float32)
    np.testing.assert_allclose(
        evaluate("linear", X[..., :2].copy(), w, b), np.einsum("bsi,io->bso", X[..., :2], w) + b, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("axis", [-1, 1])
def test_softmax(axis: int) -> None:
    """Shares that sum to one, equal to exponentials over their sum; large numbers do not overflow."""
    got = evaluate("softmax", X, axis=axis)
    np.testing.assert_allclose(got, np.exp(X.astype(np.float64)) / np.exp(X.astype(np.float64)).sum(axis, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(evaluate("softmax", X * np.float32(0) + np.float32(1e38), axis=axis).sum(axis), 1, rtol=1e-6)


@pytest.mark.parametrize(("op", "function"), [("reduce_sum", sum), ("reduce_max", max), ("reduce_mean", lambda v: sum(v) / len(v))])
def test_reductions(op: str, function: Any) -> None:
    """Over one axis and over two, kept or dropped."""
    expected = [[function([float(v) for v in X[i, :, k]]) for k in range(4)] for i in range(2)]
    np.testing.assert_allclose(evaluate(op, X, axes=(1,)), expected, rtol=1e-5, atol=1e-6)
    kept = evaluate(op, X, axes=(0, 2), keepdims=True)
    np.testing.assert_allclose(kept[0, :, 0], [function([float(v) for v in X[:, j].ravel()]) for j in range(3)], rtol=1e-5, atol=1e-6)


def test_topk_takes_the_lower_index_on_ties() -> None:
    """As KerasHub's samplers rely on."""
    values, indices = evaluate("topk", np.array([[1, 3, 3, 2]], np.float32), outputs=2, k=3)
    assert values.tolist() == [[3, 3, 2]] and indices.tolist() == [[1, 2, 3]]


def test_one_hot() -> None:
    """1 at the index."""
    assert evaluate("one_hot", IDS, depth=5).tolist() == [[[float(k == v) for k in range(5)] for v in row] for row in IDS]


def test_layout() -> None:
    """reshape, transpose, concat, split, slice, broadcast_to, gather."""
    assert evaluate("reshape", X, shape=(3, 8)).ravel().tolist() == X.ravel().tolist()
    assert evaluate("transpose", X, permutation=(2, 0, 1))[3, 1, 2] == X[1, 2, 3]
    assert np.array_equal(evaluate("concat", X, X[:, :1].copy(), axis=1)[:, 3], X[:, 0])
    first, second = evaluate("split", X, outputs=2, axis=2, sizes=(1, 3))
    assert np.array_equal(first, X[..., :1]) and np.array_equal(second, X[..., 1:])
    assert np.array_equal(evaluate("slice", X, axis=1, start=1, stop=3), X[:, 1:3])
    assert np.array_equal(evaluate("broadcast_to", X[0, :1].copy(), shape=(2, 3, 4))[1, 2], X[0, 0])
    gathered = evaluate("gather", np.arange(10, dtype=np.float32).reshape(2, 5), IDS, axis=1)
    assert gathered.shape == (2, 2, 3) and gathered[1, 0].tolist() == [8, 5, 6]


def test_embedding() -> None:
    """Row by row."""
    table = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert evaluate("embedding", table, IDS).tolist() == [[[2 * v, 2 * v + 1] for v in row] for row in IDS.tolist()]


def test_sizes() -> None:
    """dim_size and range read named sizes, products included."""
    assert evaluate("dim_size", dim="2*batch", dims={"batch": 3}) == 6
    assert evaluate("range", size="batch*sequence", dims={"batch": 2, "sequence": 3}).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(offset: float) -> None:
    """Row by row in float64."""
    w = np.array([0.5, -1, 2, 0], np.float32)
    expected = [
        [[v / math.sqrt(sum(float(u) ** 2 for u in row) / 4 + 1e-3) * (offset + float(w[k])) for k, v in enumerate(row)] for row in rows]
        for rows in X
    ]
    np.testing.assert_allclose(evaluate("rms_norm", X, w, epsilon=1e-3, offset=offset), expected, rtol=1e-5, atol=1e-7)


def test_norms_of_half_precision_compute_in_float32() -> None:
    """A mean of squares beyond float16's range does not become infinite."""
    x = np.full((1, 4), 300, np.float16)
    np.testing.assert_allclose(evaluate("rms_norm", x, epsilon=1e-6), np.ones((1, 4)), rtol=1e-3)


def test_layer_norm() -> None:
    """Mean 0 and variance 1 before weight and bias."""
    w, b = np.array([1, 2, 3, 4], np.float32), np.array([0, 1, 0, -1], np.float32)
    x = X.astype(np.float64)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b
    np.testing.assert_allclose(evaluate("layer_norm", X, w, b, epsilon=1e-5), expected, rtol=1e-4, atol=1e-6)


def test_rope_turns_pairs_by_position_times_frequency() -> None:
    """As complex numbers: first + i second times e^(i angle), times the factor; the rest stays."""
    x = np.random.default_rng(2).standard_normal((2, 3, 1, 5)).astype(np.float32)
    positions, frequencies = np.array([[0, 1, 2], [5, 6, 900]], np.int32), np.array([1.0, 0.01], np.float32)
    got = evaluate("rope", x, positions, frequencies, factor=1.5)
    pairs = x[..., :2].astype(np.float64) + 1j * x[..., 2:4].astype(np.float64)
    turned = 1.5 * pairs * np.exp(1j * positions[:, :, None, None] * frequencies.astype(np.float64))
    np.testing.assert_allclose(got[..., :2], turned.real, atol=2e-4)
    np.testing.assert_allclose(got[..., 2:4], turned.imag, atol=2e-4)
    assert np.array_equal(got[..., 4], x[..., 4]) and np.array_equal(got[0, 0, 0, :2], np.float32(1.5) * x[0, 0, 0, :2])


def test_last_token() -> None:
    """Each row at its own length."""
    got = evaluate("last_token", X, np.array([3, 1], np.int32))
    assert np.array_equal(got[:, 0], np.stack([X[0, 2], X[1, 0]]))


def by_hand(
    query: Any, keys: Any, values: Any, visible: Any, *, scale: float, softcap: float | None, slopes: Any, bias: Any, sinks: Any
) -> Any:
    """Attention with Python loops in float64; visible(row, token, key) decides."""
    batch, sequence, heads, _ = query.shape
    group = heads // keys.shape[2]
    output = np.zeros((batch, sequence, heads, values.shape[3]))
    for b, t, h in np.ndindex(batch, sequence, heads):
        logits = {}
        for s in range(keys.shape[1]):
            if visible(b, t, s):
                logit = scale * float(query[b, t, h].astype(np.float64) @ keys[b, s, h // group].astype(np.float64))
                logit = softcap * math.tanh(logit / softcap) if softcap else logit
                logits[s] = (
                    logit + (float(slopes[h]) * s if slopes is not None else 0) + (float(bias[0, h, t, s]) if bias is not None else 0)
                )
        total = sum(math.exp(v) for v in logits.values()) + (math.exp(float(sinks[h])) if sinks is not None else 0)
        for s, logit in logits.items():
            output[b, t, h] += math.exp(logit) / total * values[b, s, h // group]
    return output


@pytest.mark.parametrize(
    "features",
    [
        {}, {"causal": True}, {"causal": True, "window": 2}, {"softcap": 1.5}, {"slopes": True}, {"bias": True}, {"sinks": True}, {"mask": True},
        {"key_mask": True}, {"causal": True, "window": 3, "softcap": 2.0, "slopes": True, "bias": True, "sinks": True, "mask": True, "key_mask": True},
    ],
    ids=lambda features: "+".join(features) or "plain",
)  # fmt: skip
def test_attention_over_a_written_slot(features: dict[str, Any]) -> None:
    """Grouped heads, ragged positions, old keys in the cache; every feature alone and all together, against loops in float64."""
    generator = np.random.default_rng(3)

    def normal(*shape: int) -> Any:
        return generator.standard_normal(shape).astype(np.float32)

    batch, sequence, heads, kv_heads, dim, value_dim, total = 2, 2, 4, 2, 3, 5, 6
    graph = Graph("test", slots={"self.0": Slot("self", kv_heads, dim, value_dim)})
    arrays = {
        "query": normal(batch, sequence, heads, dim), "key": normal(batch, sequence, kv_heads, dim), "value": normal(batch, sequence, kv_heads, value_dim),
        "positions": np.array([[1, 2], [3, 4]], np.int32), "bias": normal(1, heads, sequence, total), "mask": generator.random((batch, 1, sequence, total)) < 0.7,
        "key_mask": generator.random((batch, total)) < 0.8, "sinks": normal(heads), "slopes": normal(heads),
    }  # fmt: skip
    arrays["mask"][..., 0] = arrays["key_mask"][..., 0] = True
    used = [name if index < 4 or features.get(name) else "" for index, name in enumerate(arrays)]
    for name in filter(None, used):
        graph.add_input(name, arrays[name].dtype.name, arrays[name].shape)
    attrs = {name: features.get(name) for name in ("window", "softcap")}
    graph.outputs["y"] = graph.add_node(
        "attention", used, scale=0.7, slot="self.0", write=True, causal=bool(features.get("causal")), **attrs
    )
    caches = new_caches(graph, batch, total)
    for part in caches["self.0"]:
        part[...] = generator.standard_normal(part.shape)
    keys, values = (part.copy() for part in caches["self.0"])
    for row in range(batch):
        keys[row, arrays["positions"][row]], values[row, arrays["positions"][row]] = arrays["key"][row], arrays["value"][row]

    def visible(b: int, t: int, s: int) -> bool:
        position = arrays["positions"][b, t]
        return bool(
            (not features.get("causal") or s <= position)
            and (not features.get("window") or position - s < features["window"])
            and (not features.get("key_mask") or arrays["key_mask"][b, s])
            and (not features.get("mask") or arrays["mask"][b, 0, t, s])
        )

    got = run(graph, {name: arrays[name] for name in filter(None, used)}, None, caches)["y"]
    optional = {name: arrays[name] if features.get(name) else None for name in ("slopes", "bias", "sinks")}
    np.testing.assert_allclose(
        got, by_hand(arrays["query"], keys, values, visible, scale=0.7, softcap=features.get("softcap"), **optional), rtol=1e-4, atol=1e-6
    )
    assert np.array_equal(caches["self.0"][0], keys) and np.array_equal(caches["self.0"][1], values)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("given", [False, True])
def test_joint_attention_is_attention_over_both_sets_of_keys(given: bool, softcap: float | None) -> None:
    """The decoder's keys by position, the encoder's by mask, one softmax over both; against loops in float64 over keys that are joined."""
    generator = np.random.default_rng(4)

    def normal(*shape: int) -> Any:
        return generator.standard_normal(shape).astype(np.float32)

    batch, sequence, heads, kv_heads, dim, total, encoder = 2, 2, 4, 2, 3, 6, 5
    graph = Graph("test", slots={"self.0": Slot("self", kv_heads, dim, dim), "cross.0": Slot("cross", kv_heads, dim, dim)})
    arrays = {
        "query": normal(batch, sequence, heads, dim), "key": normal(batch, sequence, kv_heads, dim), "value": normal(batch, sequence, kv_heads, dim),
        "positions": np.array([[1, 2], [3, 4]], np.int32), "cross_key": normal(batch, encoder, kv_heads, dim), "cross_value": normal(batch, encoder, kv_heads, dim),
        "cross_bias": normal(1, heads, 1, encoder), "cross_mask": generator.random((batch, 1, 1, encoder)) < 0.6,
    }  # fmt: skip
    used = [name if name in arrays and (given or name not in ("cross_key", "cross_value")) else "" for name in (declared.rstrip("?") for declared in JOINT_INPUTS)]
    for name in filter(None, used):
        graph.add_input(name, arrays[name].dtype.name, arrays[name].shape)
    attrs = {"cross_slot": None if given else "cross.0", "softcap": softcap}
    graph.outputs["y"] = graph.add_node("joint_attention", used, scale=0.7, slot="self.0", write=True, causal=True, window=3, **attrs)
    caches = new_caches(graph, batch, total)
    for part in caches["self.0"]:
        part[...] = generator.standard_normal(part.shape)
    caches["cross.0"] = [arrays["cross_key"], arrays["cross_value"]]
    got = run(graph, {name: arrays[name] for name in filter(None, used)}, None, caches)["y"]
    keys, values = (np.concatenate([caches["self.0"][part], caches["cross.0"][part]], axis=1) for part in range(2))
    bias = np.concatenate([np.zeros((1, heads, sequence, total)), np.repeat(arrays["cross_bias"], sequence, axis=2)], axis=3)

    def visible(b: int, t: int, s: int) -> bool:
        distance = arrays["positions"][b, t] - s
        return bool(0 <= distance < 3 if s < total else arrays["cross_mask"][b, 0, 0, s - total])

    expected = by_hand(arrays["query"], keys, values, visible, scale=0.7, softcap=softcap, slopes=None, bias=bias, sinks=None)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_delay_and_keep_last_look_back_over_the_call() -> None:
    """Token by token: what lies before the call comes from the past; one token keeps all of the past but its first."""
    past = X[:, :2] + 10
    both = [[*past[row], *X[row]] for row in range(2)]
    for steps in (1, 2):
        expected = [[both[row][2 + t - steps] for t in range(3)] for row in range(2)]
        assert np.array_equal(evaluate("delay", X, past, steps=steps), expected)
    assert np.array_equal(evaluate("keep_last", X, past), [row[-2:] for row in both])
    assert np.array_equal(evaluate("keep_last", X[:, :1], past), [[row[1], row[2]] for row in both])


def test_the_delta_rule_corrects_what_it_remembers() -> None:
    """Without decay a key of length 1 that is written twice remembers its last value only, and other keys are left alone."""
    keys = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], np.float32)[None, :, None]
    values = np.array([[5.0, 6.0], [7.0, 8.0], [1.0, 2.0], [0.5, 0.25]], np.float32)[None, :, None]
    decay, state = np.zeros((1, 4, 1, 1), np.float32), np.zeros((1, 1, 2, 2), np.float32)
    queries = np.ones_like(keys)
    output, new = evaluate("delta_rule", queries, keys, values, decay, -keys, keys, state, outputs=2, chunk=16)
    assert np.array_equal(new[0, 0], [[0.5, 0.25], [7.0, 8.0]])
    assert np.array_equal(output[0, :, 0], [[5, 6], [12, 14], [8, 10], [7.5, 8.25]])
    halved = evaluate("delta_rule", queries, keys, values * 0, decay + np.float32(np.log(0.5)), keys * 0, keys, state + 1, outputs=2, chunk=16)[1]
    np.testing.assert_allclose(halved, np.full((1, 1, 2, 2), 0.5**4), rtol=1e-6)
    assert np.array_equal(evaluate("delta_rule_rows", queries, keys, values, decay, -keys, keys, chunk=2), output)


@pytest.mark.parametrize("biases", [0, 3])
def test_experts_of_each_token(biases: int) -> None:
    """Token by token and expert by expert, one of them taken twice."""
    from kexport.graphs.weights import Parameter

    from tests.graphs.helpers import NamedNumbers

    ids, shares = np.array([[0, 2], [1, 1]], np.int32), np.array([[0.25, 0.75], [2.0, -1.0]], np.float32)
    x, names = X[0, :2], ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")[: 3 + biases]
    sizes = {"gate": (3, 4, 5), "up": (3, 4, 5), "down": (3, 5, 4), "gate_bias": (3, 5), "up_bias": (3, 5), "down_bias": (3, 4)}
    graph = Graph("test")
    inputs = [graph.add_input("x", "float32", x.shape), graph.add_input("ids", "int32", ids.shape), graph.add_input("shares", "float32", shares.shape)]
    inputs += [graph.add_weight(Parameter(sizes[name], "float32", name)) for name in names]
    graph.outputs["y"] = graph.add_node("experts", inputs, activation="silu", alpha=1.5, limit=0.8, offset=1.0)
    source = NamedNumbers.of(graph)
    (got,) = run(graph, {"x": x, "ids": ids, "shares": shares}, source).values()
    numbers = {name: source.read(name).astype(np.float64) if name in names else np.zeros(sizes[name]) for name in sizes}
    want = np.zeros((2, 4))
    for token, place in np.ndindex(2, 2):
        expert = ids[token, place]
        gate = [min(float(v), 0.8) for v in x[token] @ numbers["gate"][expert] + numbers["gate_bias"][expert]]
        up = [min(max(float(v), -0.8), 0.8) + 1 for v in x[token] @ numbers["up"][expert] + numbers["up_bias"][expert]]
        hidden = np.array([g / (1 + math.exp(-1.5 * g)) * u for g, u in zip(gate, up, strict=True)])
        want[token] += shares[token, place] * (hidden @ numbers["down"][expert] + numbers["down_bias"][expert])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_every_op_is_tested_here() -> None:
    """A new op brings its numbers along."""
    from pathlib import Path

    text = Path(__file__).read_text() + (Path(__file__).parents[1] / "test_interpreter.py").read_text()
    assert not [op for op in OPS if f'"{op}"' not in text]
