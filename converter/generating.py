"""What `kexport generate` does: an artifact, prompts and sampling options in; texts or token ids out. No Keras.

Prompts go to the runtime as one batch, as `generate()` takes them. With `stop_texts`, `max_new_tokens` or `stream` they are run one after the
other: each has its own end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kexport.converter.stop_text import StopText
from kexport.runtime import samplers
from kexport.runtime.contract.errors import InvalidInputError, KexportError, UsageError
from kexport.runtime.contract.manifest import Manifest
from kexport.runtime.language_model import LanguageModel
from kexport.runtime.loading import Check, load_language_model
from kexport.runtime.prompt_forms import FORMS, WholePrompts
from kexport.runtime.samplers import Sampler

_SEQ2SEQ = "seq2seq-lm"
_UNFINISHED = "\ufffd"  # what an unfinished character decodes to
_NO_TOKENIZER_HINT = 'give ids with --token-ids "1 2 3", or convert again with the tokenizer'


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to generate.

    `prompts`: texts; or `token_ids`: rows of ids, then without the tokenizer. `decoder_token_ids`: where the decoder of a seq2seq model
    starts; None takes what its tokenizer puts there. `max_length` counts prompt and new tokens (of split prompts the new ones only);
    `max_new_tokens` the new ones. `sampler`: its name, None = the original's; `sampler_arguments`: those given. `stop_token_ids` None takes the original's. `chat`: each prompt is
    what a user says to the model, and only its answer is wanted. `check`: compare every file and the tokenizer with their records first.
    `lora`: the name of an adapter of the artifact. `images`: files, of the one prompt that names them.
    """

    prompts: tuple[str, ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()
    decoder_token_ids: tuple[int, ...] | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    sampler: str | None = None
    sampler_arguments: Mapping[str, Any] = field(default_factory=dict)
    stop_texts: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] | None = None
    strip_prompt: bool = False
    chat: bool = False
    check: bool = False
    lora: str | None = None
    images: tuple[str, ...] = ()


def open_model(artifact: Path, request: Request, threads: int | None) -> LanguageModel:
    """Load the artifact for `request`, its sampler set.

    Raises KexportError: whatever the artifact, the options or this installation do not allow.
    """
    _check(request)
    check: Check = "full" if request.check else "fast"
    model = load_language_model(artifact, preprocessor=None if request.token_ids else "auto", threads=threads, check=check)
    if model.tokenizer is None and not request.token_ids:
        model.close()
        raise UsageError("KX122", f"`{artifact}` has no tokenizer, so it takes no text", hint=_NO_TOKENIZER_HINT)
    model.compile(choose_sampler(request.sampler, request.sampler_arguments, model.manifest))
    try:
        model.set_adapter(request.lora)
    except KexportError:
        model.close()
        raise
    return model


def as_chat(model: LanguageModel, request: Request) -> Request:
    """`request` with each prompt as a conversation of its own, rendered by the model's chat template. Raises as `render_chat` does."""
    if not request.chat:
        return request
    prompts = tuple(model.render_chat([{"role": "user", "content": prompt}]) for prompt in request.prompts)
    if request.max_new_tokens is None:
        model.check_room(prompts, request.max_length)
    return replace(request, prompts=prompts, strip_prompt=model.manifest.task != _SEQ2SEQ)


def choose_sampler(name: str | None, arguments: Mapping[str, Any], manifest: Manifest) -> Sampler:
    """The sampler called `name`, or the original's own (None), with `arguments` in place of its own.

    Raises UsageError (KX123) for an argument that this sampler does not take, and as `samplers.get` does.
    """
    sampler = samplers.get(name if name is not None else manifest.generation.sampler)
    if not arguments:
        return sampler
    config = sampler.get_config()
    for argument in arguments:
        if argument not in config:
            taken = ", ".join(f"--{known.replace('_', '-')}" for known in config)
            message = f"the sampler {type(sampler).__name__} takes no --{argument.replace('_', '-')}"
            raise UsageError("KX123", message, hint=f"it takes {taken}; choose another with --sampler")
    return samplers.get({"class_name": type(sampler).__name__, "config": {**config, **arguments}})


def describe_sampler(sampler: Sampler) -> str:
    """`TopKSampler(k=5, seed=None, temperature=1.0)`."""
    arguments = ", ".join(f"{name}={value}" for name, value in sorted(sampler.get_config().items()))
    return f"{type(sampler).__name__}({arguments})"


def generate_texts(model: LanguageModel, request: Request) -> list[str]:
    """The text of each prompt, as `generate()` gives it, cut before the stop texts."""
    if request.stop_texts or request.max_new_tokens is not None:
        return ["".join(stream_text(model, prompt, request)) for prompt in request.prompts]
    texts: list[str] = model.generate(
        _with_images(list(request.prompts), request), max_length=request.max_length, stop_token_ids=_stop_ids(request), strip_prompt=request.strip_prompt
    )
    return texts


def stream_text(model: LanguageModel, prompt: str, request: Request, say: Callable[[str], None] | None = None) -> list[str]:
    """The text of one prompt in pieces, each handed to `say` as soon as it is certain; ends early at a stop text."""
    form = FORMS[model.manifest.generation.prompt]
    max_length = request.max_length if request.max_new_tokens is None else form.length_for(_prompt_length(model, prompt), request.max_new_tokens)
    pieces = model.stream(_with_images([prompt], request), max_length=max_length, stop_token_ids=_stop_ids(request), strip_prompt=request.strip_prompt)
    stop = StopText(request.stop_texts, skip=0 if request.strip_prompt else _visible_prompt_length(model, prompt))
    result: list[str] = []

    def pass_on(piece: str) -> None:
        if piece:
            result.append(piece)
            if say is not None:
                say(piece)

    for piece in pieces:
        pass_on(stop.feed(piece))
        if stop.found:
            break
    pass_on(stop.end())
    return result


def generate_ids(model: LanguageModel, request: Request) -> list[list[int]]:
    """The visible ids of each row: up to and with its first stop id."""
    batches = [request.token_ids] if request.max_new_tokens is None else [(row,) for row in request.token_ids]
    return [row for batch in batches for row in _generate_batch(model, request, batch)]


def _generate_batch(model: LanguageModel, request: Request, rows: Sequence[tuple[int, ...]]) -> list[list[int]]:
    manifest = model.manifest
    inputs: dict[str, Any] = {}
    name = ""
    if manifest.task == _SEQ2SEQ:
        name = "decoder_"
        inputs = _arrays(FORMS["whole"], rows, max(map(len, rows)), manifest, "encoder_")
        rows = [_decoder_start(request, manifest)] * len(rows)
    form = FORMS[manifest.generation.prompt]
    inputs |= _arrays(form, rows, _asked_length(request, manifest, max(map(len, rows))), manifest, name)
    starts = [0] * len(rows) if request.strip_prompt else form.starts(rows)
    stops = request.stop_token_ids if request.stop_token_ids is not None else _original_stop_ids(manifest)
    result = model.generate(inputs, stop_token_ids=stops, strip_prompt=request.strip_prompt)
    ids, mask = result[f"{name}token_ids"], result[f"{name}padding_mask"]
    return [row[start:][visible[start:].astype(bool)].tolist() for row, visible, start in zip(ids, mask, starts, strict=True)]


def _arrays(form: WholePrompts, rows: Sequence[tuple[int, ...]], length: int, manifest: Manifest, name: str) -> dict[str, Any]:
    """Rows as `generate()` takes them, under names that begin with `name`. Ids are checked before they become arrays, whose types do not hold every number."""
    size = manifest.generation.vocabulary_size
    wrong = next((token for row in rows for token in row if not 0 <= token < size), None)
    if wrong is not None:
        raise InvalidInputError("KX522", f"the prompt holds the id {wrong}; the vocabulary has the ids 0 to {size - 1}")
    return {f"{name}{key}": array for key, array in form.arrays(rows, length).items()}


def _with_images(prompts: list[str], request: Request) -> Any:
    """The prompts as `generate()` takes them."""
    return {"prompts": prompts, "images": [list(request.images)]} if request.images else prompts


def _check(request: Request) -> None:
    """Refuse what contradicts itself before anything is loaded."""
    if bool(request.prompts) == bool(request.token_ids):
        raise UsageError("KX121", "give prompts or --token-ids, one of them", hint='kexport generate ARTIFACT "a prompt"')
    if request.images and len(request.prompts) != 1:
        raise UsageError("KX121", f"--image goes with one prompt, not with {len(request.prompts)}", hint="run the prompts one by one")
    if request.max_length is not None and request.max_new_tokens is not None:
        raise UsageError("KX121", "--max-length and --max-new-tokens contradict each other", hint="give one of them")
    if request.token_ids and request.chat:
        raise UsageError("KX121", "--chat needs text, not --token-ids", hint="give prompts")
    if request.token_ids and request.stop_texts:
        raise UsageError("KX121", "--stop needs text, --token-ids gives none", hint="use --stop-token-ids")
    if any(not row for row in request.token_ids):
        raise UsageError("KX121", "--token-ids holds no id", hint='for example --token-ids "1 2 3"')


def _stop_ids(request: Request) -> Any:
    return "auto" if request.stop_token_ids is None else list(request.stop_token_ids)


def _original_stop_ids(manifest: Manifest) -> tuple[int, ...] | None:
    """The ids that the original stops at; None where it has none."""
    own = manifest.generation.stop_token_ids or (manifest.tokenizer.stop_token_ids if manifest.tokenizer else None)
    return own or None


def _decoder_start(request: Request, manifest: Manifest) -> tuple[int, ...]:
    if request.decoder_token_ids:
        return request.decoder_token_ids
    packer = manifest.tokenizer.packers.get("decoder") if manifest.tokenizer is not None else None
    if packer is None or not packer.start:
        raise UsageError("KX121", "nothing says with which ids the decoder starts", hint='for example --decoder-token-ids "2"')
    return packer.start


def _asked_length(request: Request, manifest: Manifest, longest: int) -> int:
    """The `max_length` that was asked for, else the original's default, as far as the artifact serves it."""
    form = FORMS[manifest.generation.prompt]
    if request.max_new_tokens is not None:
        return form.length_for(longest, request.max_new_tokens)
    default, capacity = manifest.generation.max_length, manifest.cache.capacity
    length = form.length(request.max_length, max(longest, min(default, capacity) if capacity else default))
    if length < form.length_for(longest, 0):
        raise UsageError("KX121", f"--max-length {length} is less than the {longest} ids given", hint="it counts them, too")
    return length


def _prompt_length(model: LanguageModel, prompt: str) -> int:
    """How many tokens the decoder starts with."""
    assert model.tokenizer is not None
    role, text = ("decoder", "") if model.manifest.task == _SEQ2SEQ else ("prompt", prompt)
    packer = model.tokenizer.record.packers[role]
    return len(packer.start) + len(model.tokenizer.encode(model.with_replacements([text]))[0]) + len(packer.end)


def _visible_prompt_length(model: LanguageModel, prompt: str) -> int:
    """How many characters of the result are the prompt: what its ids become, which need not be what was typed."""
    if model.manifest.task == _SEQ2SEQ:
        return 0
    assert model.tokenizer is not None
    ids = model.tokenizer.encode(model.with_replacements([prompt]))[0]
    packed = FORMS[model.manifest.generation.prompt].kept(ids, model.tokenizer.packer("prompt"))
    return len(model.tokenizer.decode(packed).rstrip(_UNFINISHED))  # the next ids may finish its last character
