"""Which signatures over whole rows an artifact gets: what `--signatures` asks for, and what a backbone has anyway."""

from __future__ import annotations

from typing import Any

from kexport.converter.options import ConvertOptions
from kexport.graphs.ir import Graph
from kexport.graphs.passes import optimise_forward, run_passes
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import UnsupportedError

CAUSAL, SEQ2SEQ, BACKBONE = "causal-lm", "seq2seq-lm", "backbone"


def forward_signatures(task: str, options: ConvertOptions) -> tuple[str, ...]:
    """The names for an artifact of this task, `embed` for a backbone not included.

    Raises:
        UnsupportedError: KX381, scores of a model that has no uncached logits.
    """
    wanted = tuple(name for name in options.signatures or () if name in names.FORWARD)
    scores = [name for name in wanted if name != names.EMBED]
    if task == BACKBONE and names.HIDDEN_STATES in (options.signatures or ()):
        raise UnsupportedError("KX381", "a backbone takes no steps that could give `hidden_states`", hint="its outputs are hidden states already")
    if task == SEQ2SEQ and scores:
        raise UnsupportedError("KX381", f"`{scores[0]}` scores the text of a decoder-only model, not of an encoder-decoder", hint="convert without --signatures")
    if task == BACKBONE and scores:
        raise UnsupportedError("KX381", f"a backbone has no logits, so it has no `{scores[0]}`", hint="convert the whole CausalLM, without --task backbone")
    return (names.BACKBONE,) if task == BACKBONE else wanted


def capture_forwards(model: Any, signatures: tuple[str, ...]) -> tuple[dict[str, Graph], list[str]]:
    """The graphs by signature, in the form the targets take, and notes. A backbone whose token embedding can be had gets `embed`, too.

    Raises:
        UnsupportedError: see kexport.graphs.capture.forward.
    """
    from kexport.graphs.capture.forward import capture_forward, token_embedding

    if names.BACKBONE in signatures and token_embedding(model) is not None:
        signatures = (*signatures, names.EMBED)
    graphs: dict[str, Graph] = {}
    notes: list[str] = []
    for name in signatures:
        graphs[name], more = capture_forward(model, name)
        run_passes(graphs[name], optimise_forward())
        notes += [note for note in more if note not in notes]
    return graphs, notes
