"""TensorFlow without Keras.

Where Keras is installed, `import tensorflow` imports all of it at its end, for the sake of old SavedModels of Keras models. Nothing here
needs it: it is hidden for the moment of the import, and can be imported as usual afterwards.

    from kexport.runtime.plain_tensorflow import tf
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kexport.runtime.native_output import captured_stderr

KERAS = "keras"

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported: no notes on CPU features


@contextmanager
def _hidden_keras() -> Iterator[None]:
    if KERAS in sys.modules:
        yield
        return
    sys.modules[KERAS] = None  # type: ignore[assignment]  # the import system's own sign for "cannot be imported"
    try:
        yield
    finally:
        del sys.modules[KERAS]


with captured_stderr(), _hidden_keras():  # TensorFlow says what it was built with before anybody can ask it not to
    import tensorflow as tf

    tf.config.list_physical_devices()  # looks for GPUs, and complains where there are none

__all__ = ["tf"]
