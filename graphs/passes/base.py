"""What a pass is: it edits a graph in place and says what it did.

    result = RecogniseLinear()(graph)
    result.changes      how many rewrites were applied (0 on a second run)
    result.refusals     one sentence for each place it looked at and left, with the reason

`run_passes(graph, passes, check=True)` verifies the graph after each pass; an error names the pass and those before it.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass, field

from kexport.graphs.ir import Graph
from kexport.graphs.ops import infer_types
from kexport.graphs.verify import verify
from kexport.runtime.contract.errors import InternalError


@dataclass(slots=True)
class Result:
    """What one run of a pass did."""

    changes: int = 0
    refusals: list[str] = field(default_factory=list)


class Pass(abc.ABC):
    """One rewrite. Subclasses state before and after in their module docstring and implement `run`."""

    @property
    def name(self) -> str:
        """The class's name, for messages."""
        return type(self).__name__

    @abc.abstractmethod
    def run(self, graph: Graph, result: Result) -> None:
        """Edit the graph in place; count changes and note refusals in `result`."""

    def __call__(self, graph: Graph) -> Result:
        """Run once."""
        result = Result()
        self.run(graph, result)
        return result


def run_passes(graph: Graph, passes: Iterable[Pass], *, check: bool = True) -> dict[str, Result]:
    """Run passes in order; `check` verifies after each.

    Raises:
        InternalError: a pass left a malformed graph; names it and the passes before it.
    """
    results: dict[str, Result] = {}
    done: list[str] = []
    for current in passes:
        key = current.name if current.name not in results else f"{current.name}#{len(done)}"
        results[key] = current(graph)
        done.append(current.name)
        if check:
            try:
                verify(graph)
            except InternalError as error:
                raise InternalError("KX908", f"pass {current.name} broke graph `{graph.name}` (passes run: {', '.join(done)}): {error.message}") from error
    return results


def refresh_types(graph: Graph) -> None:
    """Infer every node's output types again, after an edit that changed a shape upstream."""
    for node in graph.nodes:
        for name, type_ in zip(node.outputs, infer_types(graph, node), strict=True):
            graph.types[name] = type_
