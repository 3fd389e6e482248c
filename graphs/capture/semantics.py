"""How a family's `generate()` feeds its model, where that is not what caches of keys and values allow: declared beside its adapter, by class.

    @semantics("Qwen3_5CausalLM")
    def of_qwen3_5(task): return Semantics(schedule="lock_step", prefill="buffer")

What a task's class, or the nearest of its bases, declares is in force; without a declaration rows are independent and prompts are prefilled alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from kexport.graphs.capture.by_class import ByClass


@dataclass(frozen=True, slots=True)
class Semantics:
    """Facts that the runtime needs.

    `schedule`: `rows` where a row's tokens do not depend on the other rows, so that each runs at its own pace; `lock_step` where the model sees
    KerasHub's literal schedule: all rows from the shortest prompt on, the last prompt token twice. `prefill`: `prompt` where a prefill of the prompt
    alone gives what KerasHub's prefill of the whole padded buffer gives; `buffer` where it does not (a graph that takes `extent` may still be given
    the prompt alone: it is told what KerasHub's calls were). `prompt`: `whole` where prompt and new tokens share one buffer; `split` where all but
    the prompt's last token are an input of their own, and the buffer begins with the last one. `logits`: of the task and whole rows by input, what
    scores them, where the task called as a function does not. `fix`: what `--upstream-fix` corrects, where there is something; the corrected form
    equals the task's uncached forward, which is right.
    """

    schedule: Literal["rows", "lock_step"] = "rows"
    prefill: Literal["prompt", "buffer"] = "prompt"
    prompt: Literal["whole", "split"] = "whole"
    logits: Callable[[Any, dict[str, Any]], Any] | None = None
    fix: str | None = None


Declaration = Callable[[Any], Semantics]
_DECLARED: ByClass[Declaration] = ByClass()


def semantics(*class_names: str) -> Callable[[Declaration], Declaration]:
    """Register what tasks of these classes do; the function is given the task, whose config may matter."""
    return _DECLARED.register(*class_names)


def semantics_of(task: Any) -> Semantics:
    """What is declared for `task`."""
    declaration = _DECLARED.of(task)
    return Semantics() if declaration is None else declaration(task)
