"""gelu and silu of the backend, which TensorFlow would decompose."""

from __future__ import annotations

from typing import Any

from keras.src.backend.tensorflow import nn
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.trace import Trace, is_symbolic


@interceptor("gelu")
def install_gelu(trace: Trace, patches: Patches) -> None:
    stock = nn.gelu

    def gelu(x: Any, approximate: bool = True) -> Any:
        if trace.inside_marker or not is_symbolic(x):
            return stock(x, approximate)
        return trace.mark("gelu", lambda tensor: stock(tensor, approximate), [x], approximate=bool(approximate))

    patches.replace(nn, "gelu", gelu)


@interceptor("silu")
def install_silu(trace: Trace, patches: Patches) -> None:
    stock = nn.silu

    def silu(x: Any) -> Any:
        return stock(x) if trace.inside_marker or not is_symbolic(x) else trace.mark("silu", stock, [x])

    patches.replace(nn, "silu", silu)
