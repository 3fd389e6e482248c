"""Stock KerasHub models -> graphs. Importing this package imports Keras and TensorFlow.

    captured = capture(task)
    captured.graphs      {"extend": Graph} or {"encode": Graph, "extend": Graph}
    captured.notes       what stayed plain ops, and why
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import kexport.graphs.capture.adapters  # noqa: F401  registers them
from kexport.graphs.capture.causal import capture_causal
from kexport.graphs.capture.lora import without_lora
from kexport.graphs.capture.plugins import load_plugins
from kexport.graphs.capture.seq2seq import capture_seq2seq
from kexport.graphs.ir import Graph
from kexport.runtime.contract.errors import UnsupportedError

load_plugins()


@dataclass(frozen=True, slots=True)
class Captured:
    """The graphs of a model by signature, and notes."""

    graphs: dict[str, Graph]
    notes: list[str]


def capture(task: Any, *, without: frozenset[str] = frozenset(), hidden_states: bool = False, fixed: bool = False) -> Captured:
    """Capture a keras_hub CausalLM or Seq2SeqLM, live or abstract; the task is left as found. Adapters (LoRA) are left out of the graph:
    its weights bring them (capture/lora.py).

    Args:
        without: names of interceptors to leave out, e.g. {"attention"}: these layers stay plain ops.
        fixed: the corrected form of what the original does wrong (see Semantics.fix).
        hidden_states: `extend` gives `hidden_states` [batch, sequence, hidden size], too: what the head makes logits of.

    Raises:
        UnsupportedError: another kind of task, or something the graph has no form for.
    """
    with without_lora(task):
        if hasattr(task, "call_decoder_with_cache"):
            graphs, notes = capture_seq2seq(task, without=without, hidden_states=hidden_states)
            return Captured(graphs, notes)
        if hasattr(task, "call_with_cache"):
            graph, notes = capture_causal(task, without=without, hidden_states=hidden_states, fixed=fixed)
            return Captured({"extend": graph}, notes)
    raise UnsupportedError("KX205", f"{type(task).__name__} is neither a CausalLM nor a Seq2SeqLM", hint="see `kexport list`")


__all__ = ["Captured", "capture"]
