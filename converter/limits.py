"""How long sequences may get: the position table's rows where there is one, else what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from kexport.converter.options import ConvertOptions
from kexport.converter.plan import FALLBACK_LENGTH
from kexport.graphs.ir import Graph
from kexport.graphs.passes.subgraph import ancestors
from kexport.runtime.contract.errors import UsageError
from kexport.runtime.contract.manifest import Cache, Tokenizer

POSITIONS = "positions"
LAYOUT_OPS = frozenset({"range", "reshape", "broadcast_to", "cast", "add", "dim_size"})
KERASHUB_SEQUENCE_LENGTH = 1024  # the default of every KerasHub preprocessor, and of generate() without one


@dataclass(frozen=True, slots=True)
class Limits:
    """`capacity`: the longest decoder row. `encoder_capacity`: the longest encoder row, 0 = no bound. `max_length`: generate()'s default."""

    capacity: int
    encoder_capacity: int
    max_length: int

    def in_cache(self, cache: Cache) -> Cache:
        """The cache's record with these limits."""
        return msgspec.structs.replace(cache, capacity=self.capacity, encoder_capacity=self.encoder_capacity)

    def in_tokenizer(self, tokenizer: Tokenizer | None) -> Tokenizer | None:
        """The tokenizer's record with packers that never pack beyond the position tables (a reloaded Bart preset packs to 1024)."""
        if tokenizer is None:
            return None
        bounds = {"encoder": self.encoder_capacity or self.capacity}
        packers = {
            name: msgspec.structs.replace(packer, sequence_length=min(packer.sequence_length, bounds.get(name, self.capacity)))
            for name, packer in tokenizer.packers.items()
        }
        return msgspec.structs.replace(tokenizer, packers=packers)


def choose_limits(graphs: Mapping[str, Graph], task: Any, options: ConvertOptions) -> Limits:
    """The limits of an artifact; a backbone's are those of its own position tables, of the encoder and of the decoder.

    Raises:
        UsageError: --max-length asks for more positions than the model's table has.
    """
    table = min(filter(None, map(position_table, graphs.values())), default=0) if "extend" not in graphs else position_table(graphs["extend"])
    own = own_length(task)
    if options.max_length is not None and table and options.max_length > table:
        raise UsageError("KX105", f"--max-length {options.max_length}: the model's position table has {table} rows", hint=f"ask for {table} at most")
    capacity = options.max_length or table or max(own, FALLBACK_LENGTH)
    encoder = position_table(graphs["encode"]) if "encode" in graphs else 0
    return Limits(capacity, encoder, min(own, capacity))


def position_table(graph: Graph) -> int:
    """The rows of the smallest table that is looked up by position, 0 if there is none; one that is looked up at fixed rows (T5's buckets) is not."""
    rows = []
    for node in graph.of_op("embedding"):
        nodes, leaves = ancestors(graph, [node.input(1)])
        if (nodes or leaves) and leaves <= {POSITIONS} and all(n.op in LAYOUT_OPS for n in nodes):
            rows.append(int(graph.type_of(node.input(0)).shape[0]))
    return min(rows, default=0)


def own_length(task: Any) -> int:
    """What the original's generate() uses when no length is given."""
    preprocessor = getattr(task, "preprocessor", None)
    for name in ("decoder_sequence_length", "sequence_length"):
        length = getattr(preprocessor, name, None)
        if isinstance(length, int):
            return length
    return KERASHUB_SEQUENCE_LENGTH
