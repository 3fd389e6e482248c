"""An opened artifact that generates: `generate()` with KerasHub's arguments and results, and `stream()` for text as it comes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from kexport.runtime import samplers
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import Manifest
from kexport.runtime.engines.base import Engine
from kexport.runtime.generation import Generated, IndependentRows, Job, generate, run_lock_step
from kexport.runtime.preprocessor import Preprocessor
from kexport.runtime.prompts import Prompt, check_capacity, read_prompt, read_stop_ids, strip_prompt
from kexport.runtime.samplers import Sampler
from kexport.runtime.streaming import text_stream
from kexport.runtime.tokenizer import Tokenizer

_NOT_VERIFIED = "not-verified"


class LanguageModel:
    """A causal or a seq2seq language model. Close it, or use it in a `with` block, to give its memory back.

    `tokenizer` None: token ids in, token ids out, as KerasHub with `preprocessor=None`. `allow_unverified`: no warning where the artifact was
    never compared with its original.
    """

    def __init__(self, engine: Engine, manifest: Manifest, tokenizer: Tokenizer | None, *, allow_unverified: bool = False) -> None:
        self.engine = engine
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._preprocessor = None if tokenizer is None else _preprocessor_of(tokenizer, manifest)
        self.sampler: Sampler = samplers.get(manifest.generation.sampler)
        self._warned = allow_unverified
        self._adapter: str | None = None

    @property
    def preprocessor(self) -> Preprocessor | None:
        """The tokenizer and its packing under KerasHub's names; None for token ids in and out. May be set to None and back, as in KerasHub."""
        return self._preprocessor

    @preprocessor.setter
    def preprocessor(self, preprocessor: Any) -> None:
        if preprocessor is not None and not isinstance(preprocessor, Preprocessor):
            hint = "an artifact brings its own; None turns it off"
            raise InvalidInputError("KX529", f"`{type(preprocessor).__name__}` is no preprocessor of an artifact", hint=hint)
        self._preprocessor = preprocessor
        self.tokenizer = None if preprocessor is None else preprocessor.inner

    def compile(self, sampler: Any = "top_k") -> None:
        """Choose how tokens are sampled: a name, a config dict, a sampler of ours, or one of KerasHub's own objects.

        Raises as `samplers.get` does.
        """
        self.sampler = samplers.get(sampler)

    @property
    def adapter(self) -> str | None:
        """The name of the adapter that is set."""
        return self._adapter

    def set_adapter(self, name: str | None) -> None:
        """Generate with the adapter called `name` from now on; None: with the base model. The weights it changes are loaded anew.

        Raises InvalidInputError (KX370) for a name that the artifact does not have, (KX371) where the adapter's file does not fit.
        """
        if name == self._adapter:
            return
        known = self.manifest.separate_adapters()
        if name is not None and name not in known:
            message = f"the artifact has no adapter `{name}`"
            hint = f"it has: {', '.join(known)}" if known else "adapters come in with `kexport convert --lora FILE --lora-mode separate`"
            raise InvalidInputError("KX370", message, hint=hint)
        self.engine.set_adapter(None if name is None else known[name])
        self._adapter = name

    def generate(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: Sequence[int] | str | None = "auto",
        strip_prompt: bool = False,
    ) -> Any:
        """What KerasHub's `generate()` returns for the same arguments.

        With a tokenizer: a text gives a text, a list of texts a list; for a seq2seq model these are the encoder's, or a dict with
        `encoder_text` and `decoder_text`. `max_length` counts prompt and new tokens together (None or 0: the original's default).
        Without a tokenizer: a dict of `token_ids` and `padding_mask` [batch, length] (seq2seq: `encoder_` and `decoder_` before both)
        gives a dict of numpy arrays of that shape, and `max_length` is ignored: the buffer's length counts.

        Raises InvalidInputError (KX52x; also a ValueError) for prompts that do not fit, UnsupportedError (KX525) for `strip_prompt` of a
        seq2seq model, which KerasHub's own does not do either.
        """
        stop_ids = self._read_stop_ids(stop_token_ids)
        if strip_prompt and self._is_seq2seq:
            raise UnsupportedError("KX525", "`strip_prompt` is not there for seq2seq models: their output holds no prompt")
        self._warn_if_not_verified()
        if self.tokenizer is None:
            return self._generate_ids(inputs, stop_ids, strip_prompt)
        prompt, encoder, is_single = self._read_texts(self.tokenizer, inputs, max_length)
        generated = generate(self.engine, self.sampler, self._job(prompt, encoder, stop_ids, visible_only=True))
        if strip_prompt:
            generated = Generated(*_strip(generated, prompt))
        texts = self.tokenizer.texts(generated.ids, generated.mask)
        return texts[0] if is_single else texts

    def stream(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: Sequence[int] | str | None = "auto",
        strip_prompt: bool = False,
    ) -> Iterator[str]:
        """The text of `generate()` for one prompt, in pieces as they become certain; together they are exactly that text.

        A piece may hold several characters and is never empty. Raises as `generate` does, and InvalidInputError (KX526) for several prompts
        or without a tokenizer, before the first piece.
        """
        if self.tokenizer is None:
            raise InvalidInputError("KX526", "streaming needs the artifact's tokenizer", hint="load it without `preprocessor=None`")
        stop_ids = self._read_stop_ids(stop_token_ids)
        if strip_prompt and self._is_seq2seq:
            raise UnsupportedError("KX525", "`strip_prompt` is not there for seq2seq models: their output holds no prompt")
        prompt, encoder, _ = self._read_texts(self.tokenizer, inputs, max_length)
        if len(prompt.ids) != 1:
            raise InvalidInputError(
                "KX526", f"{len(prompt.ids)} prompts cannot be streamed at once", hint="stream them one after the other"
            )
        self._warn_if_not_verified()
        return self._pieces(self.tokenizer, self._job(prompt, encoder, stop_ids, visible_only=True), strip_prompt)

    def close(self) -> None:
        """Give the engine's memory back."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _is_seq2seq(self) -> bool:
        return self.manifest.task == "seq2seq-lm"

    def _pieces(self, tokenizer: Tokenizer, job: Job, without_prompt: bool) -> Iterator[str]:
        """Feed ids to the text stream as soon as they are final; what remains at the end comes from the result itself."""
        text = text_stream(tokenizer)
        fed = job.prompt.start if without_prompt else 0
        if self.sampler.lock_step:
            generated = run_lock_step(self.engine, self.sampler, job)
        else:
            loop = IndependentRows(self.engine, self.sampler, job)
            for _ in loop.steps():
                known = int(loop.columns[0])
                if piece := text.feed(loop.ids[0, fed:known].tolist()):
                    yield piece
                fed = known
            generated = loop.result()
        visible = generated.ids[0][generated.mask[0]].tolist()  # a text prompt has no holes: this is the row up to its stop
        if piece := text.feed(visible[fed:]) + text.end():
            yield piece

    def _generate_ids(self, inputs: Any, stop_ids: tuple[int, ...] | None, without_prompt: bool) -> dict[str, Any]:
        decoder = "decoder_" if self._is_seq2seq else ""
        prompt = self._read_ids(inputs, decoder, self.manifest.cache.capacity)
        encoder = self._read_ids(inputs, "encoder_", self.manifest.cache.encoder_capacity) if self._is_seq2seq else None
        if encoder is not None and len(encoder.ids) != len(prompt.ids):
            raise InvalidInputError("KX520", f"{len(encoder.ids)} encoder prompts do not fit {len(prompt.ids)} decoder prompts")
        generated = generate(self.engine, self.sampler, self._job(prompt, encoder, stop_ids))
        ids, mask = _strip(generated, prompt) if without_prompt else (generated.ids, generated.mask)
        return {f"{decoder}token_ids": ids, f"{decoder}padding_mask": mask}

    def _read_ids(self, inputs: Any, name: str, capacity: int) -> Prompt:
        """The prompt called `name` of a dict of arrays."""
        if not isinstance(inputs, Mapping):
            hint = 'for example {"token_ids": [[1, 2, 0]], "padding_mask": [[1, 1, 0]]}; texts need the tokenizer'
            raise InvalidInputError("KX520", f"without a tokenizer the prompt is a dict of arrays, not {type(inputs).__name__}", hint=hint)
        missing = [key for key in (f"{name}token_ids", f"{name}padding_mask") if key not in inputs]
        if missing:
            raise InvalidInputError("KX520", f"the prompt has no `{missing[0]}`", hint=f"it has: {', '.join(map(str, inputs))}")
        ids, mask = inputs[f"{name}token_ids"], inputs[f"{name}padding_mask"]
        return read_prompt(ids, mask, vocabulary_size=self.engine.vocabulary_size, capacity=capacity, name=name)

    def _read_texts(self, tokenizer: Tokenizer, inputs: Any, max_length: int | None) -> tuple[Prompt, Prompt | None, bool]:
        """The packed prompt, the encoder's, and whether one text came in instead of a list."""
        length = self._read_max_length(max_length)
        capacity = self.manifest.cache.capacity
        if not self._is_seq2seq:
            texts, is_single = _read_text_list(inputs)
            return self._checked(tokenizer.pack("prompt", texts, length, capacity=capacity), ""), None, is_single
        encoder_texts, decoder_texts, is_single = _read_text_pair(inputs)
        encoder = self._checked(tokenizer.pack("encoder", encoder_texts), "encoder_")
        decoder = self._checked(tokenizer.pack("decoder", decoder_texts, length, capacity=capacity), "decoder_")
        return decoder, encoder, is_single

    def _checked(self, prompt: Prompt, name: str) -> Prompt:
        """What a tokenizer gave is checked as what a caller gives."""
        return read_prompt(prompt.ids, prompt.mask, vocabulary_size=self.engine.vocabulary_size, capacity=0, name=name)

    def _read_max_length(self, max_length: int | None) -> int:
        """The buffer's length. KerasHub's default, but never more than the artifact serves."""
        capacity = self.manifest.cache.capacity
        if max_length is None or max_length == 0:
            default = self.manifest.generation.max_length
            return min(default, capacity) if capacity else default
        if isinstance(max_length, bool) or not isinstance(max_length, (int, np.integer)) or max_length < 1:
            raise InvalidInputError("KX527", f"`max_length` is a whole number of tokens, not {max_length!r}")
        check_capacity(int(max_length), capacity, "`max_length` asks for")
        return int(max_length)

    def _read_stop_ids(self, stop_token_ids: Any) -> tuple[int, ...] | None:
        if self.tokenizer is None:
            return read_stop_ids(stop_token_ids, automatic=None)
        return read_stop_ids(stop_token_ids, self.manifest.generation.stop_token_ids or self.tokenizer.record.stop_token_ids)

    def _job(self, prompt: Prompt, encoder: Prompt | None, stop_ids: tuple[int, ...] | None, *, visible_only: bool = False) -> Job:
        return Job(prompt, encoder, stop_ids, visible_only, self.manifest.generation.rng)

    def _warn_if_not_verified(self) -> None:
        if self.manifest.parity.verdict == _NOT_VERIFIED and not self._warned:
            self._warned = True
            message = "this artifact was not compared with its original (verdict: not-verified); `kexport verify` compares it"
            warnings.warn(message, UserWarning, stacklevel=3)


def _preprocessor_of(tokenizer: Tokenizer, manifest: Manifest) -> Preprocessor:
    return Preprocessor(tokenizer, sequence_length=manifest.generation.max_length, is_seq2seq=manifest.task == "seq2seq-lm")


def _strip(generated: Generated, prompt: Prompt) -> tuple[Any, Any]:
    return strip_prompt(generated.ids, generated.mask, prompt.mask)


def _read_text_list(inputs: Any) -> tuple[list[str], bool]:
    """Texts as a list, and whether there was one alone. Raises InvalidInputError (KX528) for anything but text."""
    if isinstance(inputs, str):
        return [inputs], True
    if not isinstance(inputs, (list, tuple)) or not all(isinstance(text, str) for text in inputs):
        hint = "token ids need `preprocessor=None` at loading" if isinstance(inputs, Mapping) else ""
        raise InvalidInputError("KX528", f"a prompt is a text or a list of texts, not {type(inputs).__name__}", hint=hint)
    if not inputs:
        raise InvalidInputError("KX528", "there is no prompt")
    return list(inputs), False


def _read_text_pair(inputs: Any) -> tuple[list[str], list[str], bool]:
    """Encoder texts and decoder texts (empty ones where only the former are given)."""
    if not isinstance(inputs, Mapping):
        texts, is_single = _read_text_list(inputs)
        return texts, [""] * len(texts), is_single
    missing = [key for key in ("encoder_text", "decoder_text") if key not in inputs]
    if missing:
        raise InvalidInputError(
            "KX528", f"the prompt has no `{missing[0]}`", hint="give `encoder_text` and `decoder_text`, or a text alone"
        )
    encoder_texts, _ = _read_text_list(inputs["encoder_text"])
    decoder_texts, is_single = _read_text_list(inputs["decoder_text"])
    if len(encoder_texts) != len(decoder_texts):
        raise InvalidInputError("KX528", f"{len(encoder_texts)} encoder texts do not fit {len(decoder_texts)} decoder texts")
    return encoder_texts, decoder_texts, is_single
