"""The bytes that one decode step must read from memory:

    weights of the step's file that it reads (`Signature.weight_bytes`: no embedding table unless the head is tied to it, of experts those of one token)
    + batch x sum over self caches of  bytes per position x min(window, positions held)
    + batch x sum over cross caches of bytes per position x encoder length
    + batch x bytes of a row's states

Activations, logits and what is written are left out: they are small and stay in the processor's caches. So the floor is a true lower bound.
"""

from __future__ import annotations

import math

from kexport.runtime.contract import names
from kexport.runtime.contract.dtypes import item_size
from kexport.runtime.contract.manifest import CacheSlot, Manifest, Signature, TensorSpec

LENGTHS = ("capacity", "length")  # the names of the length axis in a slot's layout: of a fixed buffer, of one that grows


def step_bytes(manifest: Manifest, *, batch: int, held: int, encoder_length: int = 0) -> int:
    """Bytes of one step over `held` positions a row (the new one included); 0 where the manifest does not know its weights' traffic."""
    step = manifest.signature(names.EXTEND) or manifest.signature(names.DECODE)
    if step is None or not step.weight_bytes:
        return 0
    lengths = {"self": held, "cross": encoder_length}
    growing = [slot for slot in manifest.cache.slots if slot.kind in lengths]
    caches = sum(_bytes_per_position(slot, step) * min(slot.window or math.inf, lengths[slot.kind]) for slot in growing)
    return step.weight_bytes + int(batch * (caches + manifest.cache.state_bytes))


def _bytes_per_position(slot: CacheSlot, step: Signature) -> int:
    """Keys and values of one position of one row, as stored (heads may be padded); of a state inside the model, as the slot describes it."""
    specs = {spec.name: spec for spec in step.inputs}
    stored = [specs[name] for name in slot.inputs if name in specs]
    if not stored:
        return slot.num_key_value_heads * (slot.head_dim + slot.value_head_dim) * item_size(slot.dtype)
    length_axis = next(axis for axis, name in enumerate(slot.layout) if name in LENGTHS)
    return sum(_bytes_of_others(spec, length_axis) for spec in stored)


def _bytes_of_others(spec: TensorSpec, length_axis: int) -> int:
    """Bytes at one place of the length axis, whether that axis has a name or a fixed size."""
    sizes = (size for axis, size in enumerate(spec.shape) if axis != length_axis)
    return math.prod(size for size in sizes if isinstance(size, int)) * item_size(spec.dtype)
