"""Keras is imported once, on TensorFlow, without noise, or not at all and with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from typing import Any

import pytest
from kexport.converter import keras_env
from kexport.runtime.contract.errors import UnsupportedError


def test_another_backend_is_refused_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process where Keras runs on JAX, the error names the backend and the way out."""
    running = types.SimpleNamespace(config=types.SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setitem(sys.modules, "keras", running)
    with pytest.raises(UnsupportedError, match="`jax` backend") as caught:
        keras_env.import_keras_hub()
    assert (caught.value.code, "save_to_preset" in caught.value.hint) == ("KX401", True)


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine-only install can inspect and generate, and is told what converting needs."""

    def refuse(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    for name in ("keras", "keras_hub"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(keras_env.importlib, "import_module", refuse)
    with pytest.raises(UnsupportedError, match="`tensorflow`") as caught:
        keras_env.import_keras_hub()
    assert (caught.value.code, caught.value.hint) == ("KX402", 'pip install "kexport[convert]"')


def test_stderr_comes_back_after_the_import(capfd: pytest.CaptureFixture[str]) -> None:
    """Only what native code prints while the libraries load is dropped, also after an error."""
    with pytest.raises(RuntimeError), keras_env._quiet_stderr():
        os.write(2, b"hidden\n")
        raise RuntimeError
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"


@pytest.mark.slow
def test_importing_is_quiet_and_chooses_tensorflow() -> None:
    """Nothing on stderr, and the backend is TensorFlow whatever the user's Keras settings say."""
    code = "from kexport.converter.keras_env import import_keras; print(import_keras().config.backend())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"KERAS_BACKEND": "jax", "PATH": ""}
    )
    assert (done.stdout.strip(), done.stderr) == ("tensorflow", "")
