"""A `.keras` file: one zip with the config, the weights and the tokenizer's assets."""

from __future__ import annotations

import dataclasses
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from kexport.converter.checks import check_generative, check_weights_match
from kexport.converter.keras_env import import_keras
from kexport.converter.sources.base import Options, Source, backbone_of, choose_task, explained, opens, task_of_class
from kexport.converter.sources.documents import check_safe, check_serialized, parse_document
from kexport.converter.sources.preset import unknown_class
from kexport.converter.sources.weight_files import WeightFiles, read_weight_stream
from kexport.runtime.contract.errors import InvalidInputError

SUFFIX = ".keras"
CONFIG, WEIGHTS, ASSETS = "config.json", "model.weights.h5", "assets"
_AGAIN_HINT = "the file is damaged: save the model again"
_DTYPE_KEY = "dtype"


@dataclasses.dataclass(kw_only=True)
class ArchiveSource(Source):
    """A model saved with `model.save("....keras")`. `document`: its parsed config. `whole`: what `build` built last.

    The file's weights are those of the whole task, so a backbone is loaded together with the task it came in.
    """

    kind: ClassVar[str] = "keras-file"
    path: Path
    document: dict[str, Any]
    weights: WeightFiles
    whole: Any = None

    def build(self, load_weights: bool = False, dtype: str | None = "float32") -> Any:
        """The saved object in `dtype` (None: as it was saved), with its tokenizer's assets."""
        keras = import_keras()
        import keras_hub  # noqa: F401 - registers its classes

        if keras.saving.get_registered_object(self.document.get("registered_name")) is None:
            raise unknown_class(CONFIG, str(self.document.get("registered_name")))
        document = _with_dtype(self.document, dtype)
        document.pop("compile_config", None)  # keras_hub tasks cannot be compiled from it; Keras would only warn
        if not self.has_tokenizer:
            document["config"]["preprocessor"] = None
        with explained("KX419", f"Keras cannot build the model of {self.handle}", "save the model again"):
            built = keras.saving.deserialize_keras_object(document, safe_mode=not self.options.trust_source)
        check_generative(built, self.handle)
        if self.has_tokenizer:
            self._load_assets(built.preprocessor.tokenizer)
        self.whole = built
        wanted = backbone_of(built) if self.task == "backbone" else built
        if load_weights:
            self.load_weights_into(wanted)
        return wanted

    def load_weights_into(self, task: Any) -> None:
        """Keras's own `load_weights`, after the archive's checksums and the layout have been checked."""
        self._verify_checksums()
        if self.whole is not None and task is backbone_of(self.whole):
            task = self.whole
        check_weights_match(task, self.weights.shapes, f"{self.path.name}/{WEIGHTS}")
        with explained("KX422", f"{self.handle}: the weights do not fit the model", "save the model again"):
            task.load_weights(str(self.path))

    def _verify_checksums(self) -> None:
        with zipfile.ZipFile(self.path) as archive:
            try:
                broken = archive.testzip()
            except (zipfile.BadZipFile, OSError, EOFError) as error:
                raise InvalidInputError("KX426", f"{self.path.name} cannot be read: {error}", hint=_AGAIN_HINT) from error
        if broken is not None:
            raise InvalidInputError("KX426", f"{self.path.name}: the checksum of `{broken}` is wrong", hint=_AGAIN_HINT)

    def _load_assets(self, tokenizer: Any) -> None:
        """Gives the tokenizer the folder of the archive that holds all of its files."""
        wanted = set(tokenizer.file_assets)
        with zipfile.ZipFile(self.path) as archive, tempfile.TemporaryDirectory() as temporary:
            names = [name for name in archive.namelist() if name.startswith(f"{ASSETS}/")]
            folders = {str(PurePosixPath(name).parent) for name in names}
            folder = next((folder for folder in sorted(folders) if all(f"{folder}/{file}" in names for file in wanted)), None)
            if folder is None:
                raise InvalidInputError(
                    "KX430",
                    f"{self.path.name} lacks the tokenizer's files {', '.join(sorted(wanted))}",
                    hint="save the model again, or --no-tokenizer",
                )
            for file in wanted:
                Path(temporary, file).write_bytes(archive.read(f"{folder}/{file}"))
            with explained("KX431", f"{self.path.name}: the tokenizer cannot read its files", "save the model again, or --no-tokenizer"):
                tokenizer.load_assets(temporary)


@opens(order=10)
def open_archive(source: Any, options: Options) -> ArchiveSource | None:
    """A path that ends in `.keras` and is a file. Errors: KX426 not a zip or incomplete, KX411 and KX414 about the config."""
    if not isinstance(source, (str, Path)) or not str(source).endswith(SUFFIX) or not Path(source).is_file():
        return None
    path = Path(source)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path.name)
            document = parse_document(archive.read(CONFIG), f"{path.name}/{CONFIG}")
            information = archive.getinfo(WEIGHTS)
            with archive.open(WEIGHTS) as stream:
                weights = read_weight_stream(stream, f"{path.name}/{WEIGHTS}", information.file_size, path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise InvalidInputError("KX426", f"{path.name} is not a whole .keras file: {error}", hint=_AGAIN_HINT) from error
    check_serialized(document, f"{path.name}/{CONFIG}")
    check_safe(document, f"{path.name}/{CONFIG}", options.trust_source)
    return _source(path, str(source), document, weights, options)


def _source(path: Path, handle: str, document: dict[str, Any], weights: WeightFiles, options: Options) -> ArchiveSource:
    class_name = str(document["class_name"])
    task = choose_task(options, handle, class_name, task_of_class(class_name))
    preprocessor = document["config"].get("preprocessor")
    backbone = document["config"].get("backbone")
    return ArchiveSource(
        handle=handle,
        task=task,
        class_name=class_name,
        config=(backbone or document)["config"],
        parameter_count=weights.parameter_count,
        dtype=weights.dtype,
        files=(path,),
        has_tokenizer=options.tokenizer
        and isinstance(preprocessor, dict)
        and isinstance(preprocessor.get("config", {}).get("tokenizer"), dict),
        options=options,
        path=path,
        document=document,
        weights=weights,
    )


def _check_members(archive: zipfile.ZipFile, name: str) -> None:
    members = archive.namelist()
    for required in (CONFIG, WEIGHTS):
        if required not in members:
            raise InvalidInputError("KX426", f"{name} holds no {required}", hint=_AGAIN_HINT)
    for member in members:
        if member.startswith("/") or ".." in PurePosixPath(member).parts:
            raise InvalidInputError("KX414", f"{name} holds the path `{member}`, which leaves the archive", hint="do not use this file")


def _with_dtype(document: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    """A copy whose backbone is built in `dtype`, as `from_preset(dtype=...)` does; quantized policies stay."""
    document = {**document, "config": dict(document["config"])}
    backbone = document["config"].get("backbone")
    holder = {**backbone, "config": dict(backbone["config"])} if isinstance(backbone, dict) else document
    policy = holder["config"].get(_DTYPE_KEY)
    plain = policy is None or isinstance(policy, str) or policy.get("class_name") == "DTypePolicy"
    if dtype is not None and plain:
        holder["config"][_DTYPE_KEY] = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": dtype}, "registered_name": None}
    if holder is not document:
        document["config"]["backbone"] = holder
    return document
