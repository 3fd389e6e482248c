"""Caches and states of another dtype than float32, which some targets refuse."""

from __future__ import annotations

from collections.abc import Iterable

from kexport.graphs.ir import Graph


def not_float32(graphs: Iterable[Graph], target: str) -> str:
    """A sentence that names the first cache slot or state of another dtype; empty where there is none."""
    for graph in graphs:
        for name, slot in graph.slots.items():
            if slot.dtype != "float32":
                return f"cache slot `{name}` is {slot.dtype}; the {target} target keeps caches in float32"
        for name, state in graph.states.items():
            if state.dtype != "float32":
                return f"the state `{name}` is {state.dtype}; the {target} target keeps states in float32"
    return ""
