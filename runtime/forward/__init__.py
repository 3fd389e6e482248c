"""Signatures over whole rows: scores, backbones, embeddings. No cache, no loop; opened when they are first called.

A runner is the file `runtime/forward/<target>.py`; importing it registers it.
"""

from kexport.runtime.forward.base import Forward, open_forward

__all__ = ["Forward", "open_forward"]
