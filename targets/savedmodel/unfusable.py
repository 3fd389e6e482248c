"""Attention that this target has no form of its own for: the table that docs/support.md shows. TensorFlow has no operator for attention: its form is
products and a softmax over the cache in place, whatever the layer does."""

from __future__ import annotations

from kexport.targets.geometry import TWO_CACHES

TABLE = (TWO_CACHES,)
