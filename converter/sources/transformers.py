"""A Hugging Face model directory (or `hf://` repository) in the transformers layout, through KerasHub's own converters."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Final

from kexport.converter.checks import check_tokenizer_fits, highest_token_id
from kexport.converter.other_tasks import OTHER_MODEL_TYPES
from kexport.converter.sources.base import Options, Source, backbone_of, choose_task, explained, keras_hub_class, told_apart_from_results
from kexport.converter.sources.chat_files import read_chat_files
from kexport.converter.sources.documents import read_document
from kexport.converter.sources.float16_rounding import rounding_to_float16
from kexport.converter.sources.stores import Store
from kexport.runtime.contract import manifest
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError

WEIGHTS, WEIGHT_INDEX = "model.safetensors", "model.safetensors.index.json"
_AGAIN_HINT = "the file is damaged: fetch it again"
_TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "vocab.json", "tekken.json")
_OTHER_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
_CAUSAL: Final = "causal-lm"
_SEQ2SEQ: Final = "seq2seq-lm"
# KerasHub 0.32's converters of models that generate text: the config's model_type -> the Keras class and task.
MODEL_TYPES: dict[str, tuple[str, manifest.Task]] = {
    "bart": ("BartSeq2SeqLM", _SEQ2SEQ),
    "gemma": ("GemmaCausalLM", _CAUSAL),
    "gemma2": ("GemmaCausalLM", _CAUSAL),
    "gemma3": ("Gemma3CausalLM", _CAUSAL),
    "gemma3_text": ("Gemma3CausalLM", _CAUSAL),
    "gemma3n": ("Gemma3nCausalLM", _CAUSAL),
    "gemma4": ("Gemma4CausalLM", _CAUSAL),
    "gemma4_text": ("Gemma4CausalLM", _CAUSAL),
    "gpt2": ("GPT2CausalLM", _CAUSAL),
    "gpt_oss": ("GptOssCausalLM", _CAUSAL),
    "llama": ("Llama3CausalLM", _CAUSAL),
    "mistral": ("MistralCausalLM", _CAUSAL),
    "mixtral": ("MixtralCausalLM", _CAUSAL),
    "paligemma": ("PaliGemmaCausalLM", _CAUSAL),
    "qwen2": ("QwenCausalLM", _CAUSAL),
    "qwen2_moe": ("QwenMoeCausalLM", _CAUSAL),
    "qwen3": ("Qwen3CausalLM", _CAUSAL),
    "qwen3_moe": ("Qwen3MoeCausalLM", _CAUSAL),
    "qwen3_5": ("Qwen3_5CausalLM", _CAUSAL),
    "qwen3_5_moe": ("Qwen3_5MoeCausalLM", _CAUSAL),
    "smollm3": ("SmolLM3CausalLM", _CAUSAL),
    "t5gemma": ("T5GemmaSeq2SeqLM", _SEQ2SEQ),
    "t5gemma2": ("T5Gemma2Seq2SeqLM", _SEQ2SEQ),
}
# A stack of layers in the checkpoint -> the config's key for its depth; the first that the config has counts.
_LAYER_NAME = re.compile(r"(?P<stack>encoder|decoder)?\.?(?:layers|h)\.(?P<index>\d+)\.")
_DEPTH_KEYS = {
    "encoder": ("encoder_layers", "num_hidden_layers"),
    "decoder": ("decoder_layers", "num_hidden_layers"),
    "": ("num_hidden_layers", "n_layer"),
}
_ARCHITECTURES_HINT = 'add the class the checkpoint was saved from, such as "architectures": ["GemmaForCausalLM"]'
_ROUNDED_TYPES = ("mistral",)


@dataclasses.dataclass(kw_only=True)
class TransformersSource(Source):
    """A checkpoint in the transformers layout whose files `store` finds."""

    kind: ClassVar[str] = "transformers"
    store: Store

    def build(self, load_weights: bool = False, dtype: str | None = "float32") -> Any:
        """KerasHub's `from_preset` on the directory; then, if asked, its converter's weights."""
        arguments: dict[str, Any] = {"dtype": dtype}
        if self.task != "backbone" and not self.has_tokenizer:
            arguments["preprocessor"] = None
        hint = "does the directory hold the files that KerasHub's converter reads? without a tokenizer: --no-tokenizer"
        with explained("KX419", f"KerasHub cannot build the model of {self.handle}", hint):
            built = keras_hub_class(self.task, self.class_name).from_preset(self.store.address, load_weights=False, **arguments)
        self._check_tokenizer(built)
        if load_weights:
            self.load_weights_into(built)
        return built

    def load_weights_into(self, task: Any) -> None:
        """The converter's `convert_weights`, with its own reader of safetensors files."""
        from keras_hub.src.utils.preset_utils import get_preset_loader
        from keras_hub.src.utils.transformers.safetensor_utils import SafetensorLoader
        from safetensors import SafetensorError

        loader = get_preset_loader(self.store.address)
        with explained("KX422", f"the weights of {self.handle} do not fit the model", "config and weights must be of one model"):
            try:
                with SafetensorLoader(loader.preset) as tensors, told_apart_from_results():
                    loader.converter.convert_weights(backbone_of(task), tensors, loader.config)
            except SafetensorError as error:
                raise ValueError(str(error)) from error

    def _check_tokenizer(self, built: Any) -> None:
        tokenizer = getattr(getattr(built, "preprocessor", None), "tokenizer", None)
        if tokenizer is not None:
            check_tokenizer_fits(
                highest_token_id(tokenizer),
                getattr(backbone_of(built), "vocabulary_size", None),
                f"the tokenizer of {self.handle}",
            )


def open_transformers(store: Store, handle: str, config: dict[str, Any], options: Options) -> TransformersSource:
    """Checks a transformers directory. `config`: the parsed config.json.

    Raises:
        UnsupportedError: KX460, KerasHub has no converter; KX461, weights that are not safetensors.
        InvalidInputError: KX42x about the weights.
    """
    model_type = config["model_type"]
    if model_type in OTHER_MODEL_TYPES:
        class_name, other = OTHER_MODEL_TYPES[model_type]
        choose_task(options, handle, class_name, None, other)
    elif model_type not in MODEL_TYPES:
        raise UnsupportedError(
            "KX460",
            f"KerasHub has no converter for the transformers model type `{model_type}`",
            hint=f"supported: {', '.join(MODEL_TYPES)}; else start from a KerasHub preset",
        )
    class_name, own_task = MODEL_TYPES.get(model_type) or (OTHER_MODEL_TYPES[model_type][0], "backbone")
    task = choose_task(options, handle, class_name, own_task)
    if task != "backbone" and not config.get("architectures"):
        raise InvalidInputError("KX411", f"config.json of {handle} has no `architectures`, which KerasHub reads", hint=_ARCHITECTURES_HINT)
    files = _weight_files(store, handle)
    shapes, dtype = _read_headers(files)
    _check_depth(config, shapes)
    has_tokenizer = options.tokenizer and task != "backbone" and any(store.find(name) is not None for name in _TOKENIZER_FILES)
    return TransformersSource(
        handle=handle,
        task=task,
        class_name=class_name,
        config=config,
        parameter_count=sum(shapes.values()),
        dtype=dtype,
        files=files,
        has_tokenizer=has_tokenizer,
        chat=read_chat_files(store, handle) if has_tokenizer else None,
        options=options,
        warnings=_warnings(model_type, dtype, files),
        store=store,
    )


def _weight_files(store: Store, handle: str) -> tuple[Path, ...]:
    index = store.find(WEIGHT_INDEX)
    if index is not None:
        return tuple(_shard(store, name) for name in _shard_names(index))
    single = store.find(WEIGHTS)
    if single is not None:
        return (single,)
    other = next((name for name in _OTHER_WEIGHTS if store.find(name) is not None), None)
    if other is not None:
        raise UnsupportedError(
            "KX461", f"{handle} keeps its weights in {other}; only safetensors is read", hint="save it again with safe_serialization=True"
        )
    raise InvalidInputError("KX420", f"{handle} has neither {WEIGHTS} nor {WEIGHT_INDEX}", hint="copy or fetch the whole directory")


def _shard_names(index: Path) -> list[str]:
    weight_map = read_document(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else {""}
    for name in names:
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise InvalidInputError("KX427", f"{index.name} names the shard `{name}`, which is not a file beside it", hint=_AGAIN_HINT)
    return sorted(names)


def _shard(store: Store, name: str) -> Path:
    path = store.find(name)
    if path is None:
        raise InvalidInputError("KX420", f"{name} is missing, which {WEIGHT_INDEX} names as a weights file", hint="copy all shards")
    return path


def _read_headers(files: tuple[Path, ...]) -> tuple[dict[str, int], str]:
    """Tensor name -> number of values, and the dtype most of them are stored in."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UnsupportedError("KX402", "this source needs the package `safetensors`", hint='pip install "kexport[convert]"') from error

    shapes: dict[str, int] = {}
    dtypes: Counter[str] = Counter()
    for path in files:
        try:
            with safe_open(path, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    tensor = tensors.get_slice(name)
                    shapes[name] = _size(tensor.get_shape())
                    dtypes[str(tensor.get_dtype())] += shapes[name]
        except (SafetensorError, OSError) as error:
            raise InvalidInputError("KX421", f"{path.name} is not a whole safetensors file: {error}", hint=_AGAIN_HINT) from error
    return shapes, _DTYPES.get(dtypes.most_common(1)[0][0], "") if dtypes else ""


_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "U8": "uint8"}


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _check_depth(config: dict[str, Any], names: dict[str, int]) -> None:
    """As many layers in the file as in the config: KerasHub's converters read only the layers that the config asks for."""
    depths: dict[str, int] = {}
    for name in names:
        found = _LAYER_NAME.search(name)
        if found:
            stack = found["stack"] or ""
            depths[stack] = max(depths.get(stack, 0), int(found["index"]) + 1)
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else None
    if text_config is not None:
        return  # several towers with one naming: the loader's own errors have to do
    for stack, depth in depths.items():
        declared = next((config[key] for key in _DEPTH_KEYS[stack] if isinstance(config.get(key), int)), None)
        if declared is not None and declared != depth:
            raise InvalidInputError(
                "KX422",
                f"the checkpoint holds {depth} {stack + ' ' if stack else ''}layers, config.json says {declared}",
                hint="config and weights must be of one model; KerasHub would silently drop layers",
            )


def _warnings(model_type: str, dtype: str, files: tuple[Path, ...]) -> list[str]:
    if model_type not in _ROUNDED_TYPES or dtype == "float16":
        return []
    rounding = rounding_to_float16(files)
    if not rounding.changed and rounding.looked_at == rounding.total:
        return []
    fix = "a KerasHub preset of the model (saved from its own weights with save_to_preset()) is read without rounding"
    if rounding.infinite:
        fix = f"infinite weights are refused later; {fix}"
    return [f"KerasHub's {model_type} converter rounds the {dtype} checkpoint to float16, and the original is the model after that: {rounding}; {fix}"]
