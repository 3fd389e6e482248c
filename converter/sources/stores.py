"""Where a preset's files are: a local folder or a hub. Both give local paths; a hub fetches on demand into its own cache."""

from __future__ import annotations

import importlib
import socket
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kexport.runtime.contract.errors import InvalidInputError, ResourceError, UnsupportedError

REACH_TIMEOUT_SECONDS = 5.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HUB_PARTS = ("constants", "errors", "utils")
_NETWORK_HINT = "check the network, or download the folder by other means and give its path"


class Store(ABC):
    """`address` is what KerasHub's `from_preset` takes for the same files."""

    address: str

    @abstractmethod
    def find(self, name: str) -> Path | None:
        """The local path of the preset's file `name`, fetched if need be; None if the preset has no such file."""

    def check(self) -> None:  # noqa: B027 - most stores have nothing to check
        """Refuses a store that leads elsewhere; called once there is a config.json in it."""


class LocalStore(Store):
    """A folder on disk. Symbolic links that leave it are refused unless the source is trusted."""

    def __init__(self, directory: Path, trust_source: bool = False) -> None:
        """`directory`: the preset's folder, which exists."""
        self.directory = directory
        self.address = str(directory)
        self._trusted = trust_source

    def find(self, name: str) -> Path | None:
        """The path in the folder. Raises InvalidInputError KX416 for a link that leaves it."""
        path = self.directory / name
        if not path.is_file():
            return None
        if not self._trusted:
            self._refuse_leaving(path, name)
        return path

    def check(self) -> None:
        """All files, also those that only KerasHub's loader would open. Raises InvalidInputError KX416."""
        if self._trusted:
            return
        for path in sorted(self.directory.rglob("*")):
            if path.is_symlink():
                self._refuse_leaving(path, str(path.relative_to(self.directory)))

    def _refuse_leaving(self, path: Path, name: str) -> None:
        home = self.directory.resolve()
        if home.parent.name == "snapshots":  # a Hugging Face cache keeps its files as links to ../../blobs
            home = home.parent.parent
        if not path.resolve().is_relative_to(home):
            raise InvalidInputError(
                "KX416",
                f"{name} is a symbolic link to {path.resolve()}, outside the preset",
                hint="copy the file into the preset, or --trust-source",
            )


class HuggingFaceStore(Store):
    """`hf://org/name`, through huggingface_hub's cache, which is also KerasHub's. Honours HF_ENDPOINT and HF_HOME."""

    def __init__(self, address: str) -> None:
        """Checks the form of `hf://org/name` (KX407) and, unless it is cached, that the hub can be reached (KX406)."""
        self.address = address
        self._repository = address.removeprefix("hf://")
        parts = self._repository.split("/")
        if len(parts) != 2 or not all(parts) or "@" in self._repository:
            raise InvalidInputError(
                "KX407",
                f"`{address}` is not of the form hf://organisation/model",
                hint="revisions and sub-folders are not supported: download the folder",
            )
        self._check_reachable()

    def find(self, name: str) -> Path | None:
        """The path in the cache. Raises KX406 on network trouble, KX408 for an unknown model, KX409 for a gated one."""
        hub = _import_hub("huggingface_hub", *_HUB_PARTS)
        errors = hub.errors
        try:
            return Path(hub.hf_hub_download(repo_id=self._repository, filename=name))
        except errors.LocalEntryNotFoundError as error:
            raise ResourceError(
                "KX406", f"{self.address}: `{name}` cannot be fetched, and is not in the cache", hint=_NETWORK_HINT, detail=str(error)
            ) from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise InvalidInputError(
                "KX409", f"{self.address} is gated", hint="accept its terms on the hub and log in with `hf auth login`", detail=str(error)
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise InvalidInputError(
                "KX408",
                f"there is no model {self.address}",
                hint="check the spelling; a private model needs `hf auth login`",
                detail=str(error),
            ) from error
        except errors.HFValidationError as error:
            raise InvalidInputError("KX407", f"`{self.address}` is not a valid handle: {error}", hint="hf://organisation/model") from error
        except errors.HfHubHTTPError as error:
            raise ResourceError("KX406", f"{self.address}: the hub refuses `{name}`: {error}", hint=_NETWORK_HINT) from error

    def _check_reachable(self) -> None:
        """An own check: with the hub down, KerasHub retries for half a minute and then says that there is no config.json."""
        hub = _import_hub("huggingface_hub", *_HUB_PARTS)
        cached = isinstance(hub.try_to_load_from_cache(self._repository, "config.json"), str) if _valid(hub, self._repository) else False
        if not cached and not hub.constants.HF_HUB_OFFLINE:
            check_reachable(hub.constants.ENDPOINT, self.address)


class KaggleStore(Store):
    """`kaggle://org/model/keras/variant[/version]`, through kagglehub's cache. `handle`: what messages call it."""

    _SEGMENTS = (4, 5)

    def __init__(self, address: str, handle: str | None = None) -> None:
        """Checks the form of `address` (KX407)."""
        self.address = address
        self._model = address.removeprefix("kaggle://")
        self._handle = handle or address
        parts = self._model.split("/")
        if len(parts) not in self._SEGMENTS or not all(parts):
            raise InvalidInputError(
                "KX407",
                f"`{address}` is not of the form kaggle://organisation/model/keras/variant[/version]",
                hint="copy the handle from the model's page",
            )

    def find(self, name: str) -> Path | None:
        """The path in the cache. Raises KX406 on network trouble, KX409 without access."""
        hub = _import_hub("kagglehub", "exceptions")
        try:
            return Path(hub.model_download(self._model, name))
        except hub.exceptions.KaggleApiHTTPError as error:
            if _asks_for_the_model(error):
                hint = "check the spelling; a private model needs KAGGLE_USERNAME and KAGGLE_KEY"
                raise InvalidInputError("KX408", f"there is no model {self._handle}", hint=hint, detail=str(error)) from error
            if "404 Client Error" in str(error):
                return None
            if "403 Client Error" in str(error) or "401 Client Error" in str(error):
                raise InvalidInputError(
                    "KX409",
                    f"{self._handle} is not accessible",
                    hint="accept its terms on kaggle.com and set KAGGLE_USERNAME and KAGGLE_KEY",
                    detail=str(error),
                ) from error
            raise ResourceError("KX406", f"{self._handle}: kaggle.com refuses `{name}`: {error}", hint=_NETWORK_HINT) from error
        except OSError as error:  # requests' connection errors are OSErrors
            raise ResourceError(
                "KX406", f"{self._handle}: kaggle.com cannot be reached for `{name}`", hint=_NETWORK_HINT, detail=str(error)
            ) from error
        except ValueError as error:
            if "is not present in the model files" in str(error):
                return None
            raise InvalidInputError("KX407", f"{self._handle}: {error}", hint="copy the handle from the model's page") from error


def _asks_for_the_model(error: Any) -> bool:
    """Whether what was not found is the model itself: of a handle without a version the newest one is asked for before any file."""
    return "404 Client Error" in str(error) and "GetModelInstance" in str(getattr(error.response, "url", ""))


def check_reachable(endpoint: str, handle: str) -> None:
    """One connection attempt to the hub, unless a proxy is configured. Raises ResourceError KX406."""
    from urllib.request import getproxies

    address = urlsplit(endpoint)
    if address.scheme in getproxies() or address.hostname is None:
        return
    port = address.port or _DEFAULT_PORTS.get(address.scheme, _DEFAULT_PORTS["https"])
    try:
        socket.create_connection((address.hostname, port), timeout=REACH_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise ResourceError("KX406", f"{handle}: the hub at {endpoint} cannot be reached ({error})", hint=_NETWORK_HINT) from error


def _valid(hub: Any, repository: str) -> bool:
    try:
        hub.utils.validate_repo_id(repository)
    except ValueError:
        return False
    return True


def _import_hub(name: str, *parts: str) -> Any:
    """The hub's client package, with the named submodules loaded."""
    try:
        for part in parts:
            importlib.import_module(f"{name}.{part}")
        return importlib.import_module(name)
    except ImportError as error:
        raise UnsupportedError("KX402", f"this source needs the package `{name}`", hint=f"pip install {name}") from error
