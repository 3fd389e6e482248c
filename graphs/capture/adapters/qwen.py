"""Qwen with local windows: its attention asks the call's start for its truth, which a traced tensor does not have, so that the window's mask is made here."""

from __future__ import annotations

from typing import Any

from keras_hub.src.models.qwen.qwen_attention import QwenAttention
from keras_hub.src.models.qwen_moe.qwen_moe_attention import QwenMoeAttention
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.trace import Trace, is_symbolic


@interceptor("qwen_window", innermost=True)
def install(trace: Trace, patches: Patches) -> None:
    for cls in (QwenAttention, QwenMoeAttention):
        patches.replace(cls, "_compute_attention", _wrap(cls._compute_attention))


def _wrap(stock: Any) -> Any:
    def compute_attention(self: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, cache_update_index: Any = None) -> Any:
        if not self.use_sliding_window_attention or not is_symbolic(cache_update_index):
            return stock(self, query, key, value, attention_mask, cache_update_index)
        mask = self._mask_sliding_window(attention_mask, cache_update_index=cache_update_index)
        self.__dict__["use_sliding_window_attention"] = False
        try:
            return stock(self, query, key, value, mask, cache_update_index)
        finally:
            self.__dict__["use_sliding_window_attention"] = True

    return compute_attention
