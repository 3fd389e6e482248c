"""The Fourier transform of FNet as products: numpy's numbers at every length, and only where there is no imaginary part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("length", "width"), [(1, 1), (1, 7), (2, 3), (7, 12), (512, 96), (997, 33), (4096, 8)])
def test_the_real_part_is_numpys(length: int, width: int) -> None:
    """Of lengths without small factors and of long ones alike: the angles of far places are as exact as those of near ones."""
    from kexport.graphs.capture.intercept.fourier import _real_part

    x = np.random.default_rng(length).standard_normal((2, length, width)).astype(np.float32)
    expected = np.fft.fft2(x.astype(np.float64)).real
    assert np.abs(np.asarray(_real_part(x)) - expected).max() < 2e-6 * np.sqrt(length * width) * np.abs(x).max()


def traced(imaginary: Any) -> list[str]:
    """The types of the operators that a transform of real numbers and `imaginary(them)` is traced to."""
    import tensorflow as tf
    from keras import ops
    from kexport.graphs.capture.intercept import intercepting
    from kexport.graphs.capture.trace import Trace

    with intercepting(Trace()):
        function = tf.function(lambda x: ops.fft2((x, imaginary(x)))[0], autograph=False).get_concrete_function(tf.TensorSpec([None, None, 6]))
    needed, pending = set(), [tensor.op for tensor in function.outputs]
    while pending:
        op = pending.pop()
        if op.name not in needed:
            needed.add(op.name)
            pending += [tensor.op for tensor in op.inputs]
    return [op.type for op in function.graph.get_operations() if op.name in needed]


def test_only_real_numbers_become_products() -> None:
    """Zeros are seen in the trace; another imaginary part leaves the transform as it is, to be refused by its name."""
    from keras import ops

    assert "FFT2D" not in traced(ops.zeros_like) and "Cos" in traced(ops.zeros_like)
    assert "FFT2D" in traced(lambda x: x * 2) and "Cos" not in traced(lambda x: x * 2)
