"""Which signatures a file has: fixed sizes of the two logical operations, `extend` and `encode`.

prefill_<n>   n tokens into the caches, no logits (LiteRT-LM's contract): the prompt but its last token, in pieces
first_<n>     the same for the beginning of a prompt: attends to its own n positions only
decode        one token, logits; attends to the whole cache
decode_<c>    the same on the same caches, but attends to the first c positions only: cost follows the length, not the capacity
encode_<n>    an encoder prompt of up to n tokens; the largest takes the longest prompt there is, an encoder cannot be fed in pieces
score_<n>, backbone_<n>, prefill_images_<n>, ...   a graph over whole rows, for one row of up to n tokens: the largest takes the longest row there is.
              A row is padded behind its end; an encoder-decoder's two rows are of one length
vision        one image: a graph over whole rows that has no length

LiteRT-LM calls `prefill_<n>` and `decode` only, and would pack weights for every other signature: a bundle has none but these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kexport.graphs.dims import BATCH, ENCODER_SEQUENCE, SEQUENCE
from kexport.graphs.ir import Graph
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import UsageError
from kexport.targets.base import EmitOptions
from kexport.targets.geometry import longest_call

DEFAULT_BUCKETS = (16, 128, 512)
EXACT_BUCKETS = (4, 16, 64, 256)  # with states, which no padding may reach: what is left of a prompt goes in steps of one token
FIRST_CONTEXT = 256
FIRST_ROW = 64  # a shorter row costs about as much: weights are read once a call
BETWEEN = 1.5  # a context between one power of two and the next: on the way there a step attends to half as many positions in vain
LITERTLM = "litertlm"


@dataclass(frozen=True, slots=True)
class SignaturePlan:
    """One signature: the graph it is made of, the sizes of the graph's dims, and whether it gives logits, or whatever else the graph has for outputs."""

    name: str
    graph: str
    sizes: Mapping[str, int]
    sequence: int
    with_logits: bool


@dataclass(frozen=True, slots=True)
class FilePlan:
    """All signatures of a file, and the lengths of its caches."""

    signatures: tuple[SignaturePlan, ...]
    cache_length: int
    encoder_capacity: int


def plan_file(graphs: Mapping[str, Graph], options: EmitOptions) -> FilePlan:
    """The signatures for these graphs.

    Raises:
        UsageError: a capacity or a bucket below 1.
    """
    if options.capacity < 1:
        raise UsageError("KX103", f"--max-length is {options.capacity}", hint="give a capacity of at least one token")
    whole_rows = [wanted for name in graphs if name in names.FORWARD for wanted in _over_whole_rows(graphs[name], options)]
    if names.EXTEND not in graphs:
        return FilePlan(tuple(whole_rows), options.capacity, options.capacity)
    main = graphs[names.EXTEND]
    longest = min(options.capacity, longest_call(main) or options.capacity)
    buckets = chosen_buckets(options.prefill_buckets or (EXACT_BUCKETS if main.states else DEFAULT_BUCKETS), longest)
    length = options.capacity + (head_room(buckets) if options.package == LITERTLM else 0)
    encoder_capacity = options.encoder_capacity or options.capacity
    sizes = {"batch": 1, "total": length, "encoder_sequence": encoder_capacity}
    signatures: list[SignaturePlan] = []
    if names.ENCODE in graphs:
        for bucket in (*(b for b in chosen_buckets(buckets, encoder_capacity) if b < encoder_capacity), encoder_capacity):
            bound = sizes | {"encoder_sequence": bucket}
            signatures.append(SignaturePlan(f"{names.ENCODE}_{bucket}", names.ENCODE, bound, bucket, with_logits=False))
    for bucket in buckets:
        bound = sizes | {"sequence": bucket}
        signatures.append(SignaturePlan(f"{names.PREFILL}_{bucket}", names.EXTEND, bound, bucket, with_logits=False))
    if options.package != LITERTLM:
        signatures += _shorter(sizes, buckets, length)
    signatures += whole_rows
    signatures.append(SignaturePlan(names.DECODE, names.EXTEND, sizes | {"sequence": 1}, 1, with_logits=True))
    return FilePlan(tuple(signatures), length, encoder_capacity)


def _shorter(sizes: Mapping[str, int], buckets: tuple[int, ...], length: int) -> list[SignaturePlan]:
    """Signatures that attend to a part of the cache."""
    found = []
    for bucket in buckets:
        if bucket < length:
            bound = {**sizes, "sequence": bucket, "total": bucket}
            found.append(SignaturePlan(f"{names.FIRST}_{bucket}", names.EXTEND, bound, bucket, with_logits=False))
    for context in contexts(length):
        bound = {**sizes, "sequence": 1, "total": context}
        found.append(SignaturePlan(f"{names.DECODE}_{context}", names.EXTEND, bound, 1, with_logits=True))
    return found


def _over_whole_rows(graph: Graph, options: EmitOptions) -> list[SignaturePlan]:
    """The signatures of a graph over whole rows; one where it has no length."""
    sizes = {BATCH: 1}
    if not any(SEQUENCE in type_.shape or ENCODER_SEQUENCE in type_.shape for type_ in graph.inputs.values()):
        return [SignaturePlan(graph.name, graph.name, sizes, 0, with_logits=True)]
    if graph.name in names.IMAGES:  # one image alone is hundreds of tokens
        lengths = doubled(FIRST_CONTEXT, options.capacity)
    else:
        lengths = (*chosen_buckets(options.prefill_buckets, options.capacity), options.capacity) if options.prefill_buckets else doubled(FIRST_ROW, options.capacity)
    return [
        SignaturePlan(names.of_length(graph.name, length), graph.name, sizes | {SEQUENCE: length, ENCODER_SEQUENCE: length}, length, with_logits=True)
        for length in dict.fromkeys(lengths)
    ]


def chosen_buckets(wanted: tuple[int, ...], capacity: int) -> tuple[int, ...]:
    """The buckets in order, none longer than `capacity`."""
    if min(wanted) < 1:
        raise UsageError("KX107", f"--prefill-buckets has {min(wanted)}", hint="a bucket is a number of tokens, at least 1")
    return tuple(sorted({min(bucket, capacity) for bucket in wanted}))


def doubled(shortest: int, capacity: int) -> tuple[int, ...]:
    """`shortest`, twice that, ... below the capacity, then the capacity itself: a row is computed at less than twice its length."""
    found, bucket = [], shortest
    while bucket < capacity:
        found.append(bucket)
        bucket *= 2
    return (*found, capacity)


def head_room(buckets: tuple[int, ...]) -> int:
    """How far padding may reach beyond the last token: LiteRT-LM takes the smallest bucket that holds what is left of a prompt."""
    return max(bucket - previous - 1 for previous, bucket in zip((0, *buckets), buckets, strict=False))


def contexts(length: int) -> tuple[int, ...]:
    """256, 384, 512, 768, 1024, 1536, ... below the cache's length."""
    found, context = [], FIRST_CONTEXT
    while context < length:
        found += [context, int(context * BETWEEN)]
        context *= 2
    return tuple(context for context in found if context < length)
