"""The one door to Keras: TensorFlow as the backend, quiet logs, and a clear word when either cannot be had.

Nothing in the converter imports Keras at module level; `--help` and the cheap checks of `plan` never come through here.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from kexport.runtime.contract.errors import UnsupportedError

BACKEND = "tensorflow"
_INSTALL_HINT = 'pip install "kexport[convert]"'
_ERRORS_ONLY = "2"
_STDERR = 2


def import_keras_hub() -> ModuleType:
    """`keras_hub` on the TensorFlow backend.

    Raises:
        UnsupportedError: KX401, Keras already runs on another backend in this process; KX402, an extra is missing or too old.
    """
    _choose_backend()
    if "keras_hub" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _ERRORS_ONLY)
        with _quiet_stderr():
            for name in ("tensorflow", "keras", "keras_hub"):
                _import_or_explain(name)
            sys.modules["tensorflow"].config.list_physical_devices()  # looks for GPU drivers now, in silence, instead of at the first op
        _quiet_sentencepiece()
    return sys.modules["keras_hub"]


def import_keras() -> ModuleType:
    """`keras`, after `import_keras_hub` has made sure that it is the right one. Same errors."""
    import_keras_hub()
    return sys.modules["keras"]


def _choose_backend() -> None:
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "config"):
        os.environ["KERAS_BACKEND"] = BACKEND
        return
    running = keras.config.backend()
    if running != BACKEND:
        raise UnsupportedError(
            "KX401",
            f"Keras is already running on the `{running}` backend in this process; kexport captures models under `{BACKEND}`",
            hint="set KERAS_BACKEND=tensorflow before importing keras, or save_to_preset() and run `kexport convert` on the folder",
        )


def _import_or_explain(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or name).split(".")[0]
        raise UnsupportedError(
            "KX402", f"converting needs the package `{missing}`, which cannot be imported", hint=_INSTALL_HINT, detail=str(error)
        ) from error


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drops what native code prints while it loads: TensorFlow's first lines come before any setting of its log level counts."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # a process without stderr has nothing to quieten
        yield
        return
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDERR)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, _STDERR)
        os.close(kept)


def _quiet_sentencepiece() -> None:
    """SentencePiece prints a line for each model it opens, unless told not to."""
    sentencepiece = sys.modules.get("sentencepiece")
    if sentencepiece is not None and hasattr(sentencepiece, "set_min_log_level"):
        sentencepiece.set_min_log_level(int(_ERRORS_ONLY))
