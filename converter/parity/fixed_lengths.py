"""The proof of signatures that take rows of fixed lengths: a row that is padded to another of them gives what it gave before."""

from __future__ import annotations

from collections.abc import Iterator

from kexport.converter.parity.cases import FLOAT_BYTES, LOGIT_BYTES_AT_MOST, LONG_CASE_OPERATIONS
from kexport.converter.parity.forward import Answer, Arrays
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import Manifest, TensorSpec


def at_fixed_lengths(answers: list[Answer], manifest: Manifest, parameters: int) -> Iterator[Answer]:
    """The first row of each signature's first answer, for every length that none of its answers is run at, as far as such a run is affordable."""
    longest = min(LONG_CASE_OPERATIONS / max(1, 2 * parameters), LOGIT_BYTES_AT_MOST / (FLOAT_BYTES * max(1, manifest.generation.vocabulary_size)))
    for signature in manifest.signatures:
        own = [answer for answer in answers if answer.signature == signature.name and signature.name in names.FORWARD]
        widths = [max(array.shape[1] for array in answer.feeds.values()) for answer in own if signature.sequence_lengths]
        run = {min(length for length in signature.sequence_lengths if length >= width) for width in widths}
        for length in signature.sequence_lengths:
            if widths and length not in run and widths[0] < length <= longest:
                feeds, outputs = _first_row(signature.inputs, own[0].feeds), _first_row(signature.outputs, own[0].outputs)
                yield Answer(signature.name, feeds, outputs, length)


def _first_row(specs: tuple[TensorSpec, ...], arrays: Arrays) -> Arrays:
    axes = {spec.name: spec.shape.index(names.BATCH) for spec in specs}
    return {name: array.take([0], axis=axes[name]) for name, array in arrays.items()}
