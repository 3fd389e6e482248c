"""An opened artifact that generates: `generate()` with KerasHub's arguments and results, and `stream()` for text as it comes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kexport.runtime import batches as forms
from kexport.runtime import samplers
from kexport.runtime.adapters import find_adapter
from kexport.runtime.contract import names
from kexport.runtime.contract.errors import InternalError, InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import Images, Manifest
from kexport.runtime.engines.base import Engine
from kexport.runtime.forward import Forward
from kexport.runtime.generation import Generated, Job, generate, loop_of
from kexport.runtime.images import pixels
from kexport.runtime.images import prompts as image_prompts
from kexport.runtime.images.prefill import ImagePrefill
from kexport.runtime.preprocessor import Preprocessor
from kexport.runtime.prompt_forms import FORMS
from kexport.runtime.prompts import Prompt, read_stop_ids, strip_prompt
from kexport.runtime.samplers import Sampler
from kexport.runtime.scoring import ScoreGradients, read_rows, score, score_gradients
from kexport.runtime.streaming import text_stream
from kexport.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kexport.runtime.chat import ChatTemplate

_NOT_VERIFIED = "not-verified"
# The arguments of Keras' compile() that are about training.
_TRAINING = frozenset(
    {"optimizer", "loss", "loss_weights", "metrics", "weighted_metrics", "run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss"}
)


@dataclass(frozen=True)
class _Batch:
    """What one call is to continue: `encoder` of a seq2seq model, `images` where there are any."""

    prompt: Prompt
    encoder: Prompt | None = None
    images: image_prompts.PromptImages | None = None
    is_single: bool = False


class LanguageModel:
    """A causal or a seq2seq language model. Close it, or use it in a `with` block, to give its memory back.

    `tokenizer` None: token ids in, token ids out, as KerasHub with `preprocessor=None`. `allow_unverified`: no warning where the artifact was
    never compared with its original.
    """

    def __init__(
        self, engine: Engine, manifest: Manifest, tokenizer: Tokenizer | None, *, allow_unverified: bool = False, open_forward: Callable[[], Forward] | None = None
    ) -> None:
        self.engine = engine
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._form = FORMS[manifest.generation.prompt]
        self._preprocessor = None if tokenizer is None else _preprocessor_of(tokenizer, manifest)
        self.sampler: Sampler = samplers.get(manifest.generation.sampler)
        self._warned = allow_unverified
        self._chat: ChatTemplate | None = None
        self._open_forward = open_forward
        self._forward: Forward | None = None
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

    def compile(self, sampler: Any = "top_k", **training: Any) -> None:
        """Choose how tokens are sampled: a name, a config dict, a sampler of ours, one of KerasHub's own objects, or a `TokenSampler`.

        `training`: what else Keras' `compile()` takes (optimizer, loss, ...), so that a script may keep its line; an artifact does not train, and leaves
        it unread. Raises as `samplers.get` does, and TypeError for what Keras does not take.
        """
        unknown = sorted(training.keys() - _TRAINING)
        if unknown:
            raise TypeError(f"compile() got an unexpected keyword argument '{unknown[0]}'")
        self.sampler = samplers.get(sampler)

    @property
    def adapter(self) -> str | None:
        """The name of the adapter that is set."""
        return self._adapter

    def set_adapter(self, name: str | None) -> None:
        """Generate and score with the adapter called `name` from now on; None: with the base model. The weights it changes are loaded anew.

        Raises InvalidInputError (KX370) for a name that the artifact does not have, (KX371) where the adapter's file does not fit.
        """
        if name == self._adapter:
            return
        adapter = find_adapter(self.manifest, name)
        self.engine.set_adapter(adapter)
        if self._forward is not None:
            self._forward.set_adapter(adapter)
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
        `encoder_text` and `decoder_text`; for a model that takes images a dict with `prompts` and `images`, each an array, a file's path or a
        Pillow image, in KerasHub's forms. `max_length` counts prompt and new tokens together (None or 0: the original's default); where the
        manifest says that prompts are split it counts new tokens, and must be given.
        Without a tokenizer: a dict of `token_ids` and `padding_mask` [batch, length] (seq2seq: `encoder_` and `decoder_` before both; split
        prompts: KerasHub's four, see prompt_forms.py) gives a dict of numpy arrays, and `max_length` is ignored: the buffer's length counts.
        A `tf.data.Dataset`, a generator, or any other iterable of such batches is run batch by batch and gives one list, or one dict.

        Raises InvalidInputError (KX52x; also a ValueError) for prompts that do not fit, UnsupportedError (KX525) for `strip_prompt` of a
        seq2seq model, which KerasHub's own does not do either.
        """
        stop_ids = self._read_stop_ids(stop_token_ids)
        if strip_prompt and self._is_seq2seq:
            raise UnsupportedError("KX525", "`strip_prompt` is not there for seq2seq models: their output holds no prompt")
        self._warn_if_not_verified()
        batches = forms.batches_of(inputs)
        if self.tokenizer is None:
            if batches is None:
                return self._generate_ids(inputs, stop_ids, strip_prompt)
            checked: Iterator[Any] = batches
            for table in self._form.tables:
                checked = forms.of_one_length(checked, f"{self._decoder}{table}")
            return forms.joined_arrays(self._generate_ids(batch, stop_ids, strip_prompt) for batch in checked)
        if batches is None:
            return self._generate_texts(self.tokenizer, inputs, max_length, stop_ids, strip_prompt)
        return forms.joined_texts(self._generate_texts(self.tokenizer, batch, max_length, stop_ids, strip_prompt) for batch in batches)

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
        if forms.batches_of(inputs) is not None:
            raise InvalidInputError("KX526", "batches of prompts cannot be streamed at once", hint="stream them one after the other")
        batch = self._read_texts(self.tokenizer, inputs, max_length)
        if len(batch.prompt.ids) != 1:
            raise InvalidInputError(
                "KX526", f"{len(batch.prompt.ids)} prompts cannot be streamed at once", hint="stream them one after the other"
            )
        self._warn_if_not_verified()
        return self._pieces(self.tokenizer, self._job(batch, stop_ids, visible_only=True), strip_prompt)

    def chat(
        self,
        messages: Sequence[Any],
        max_length: int | None = None,
        stop_token_ids: Sequence[int] | str | None = "auto",
        **variables: Any,
    ) -> Any:
        """The model's answer to a conversation: `messages` are dicts with `role` and `content`; a list of conversations gives a list of texts.

        `max_length` counts the rendered conversation, too. `variables` go to the template (`render_chat`). Raises as `render_chat`,
        `check_room` and `generate` do.
        """
        several = bool(messages) and all(isinstance(conversation, (list, tuple)) for conversation in messages)
        prompts = [self.render_chat(conversation, **variables) for conversation in (messages if several else [messages])]
        self.check_room(prompts, max_length)
        answers = self.generate(prompts, max_length, stop_token_ids, strip_prompt=not self._is_seq2seq)
        return answers if several else answers[0]

    def render_chat(self, messages: Sequence[Any], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The prompt that the model's own chat template makes of a conversation, for `generate()` or `stream()`.

        Start tokens that `generate()` puts in front by itself are left out; all other special tokens are text, read by the tokenizer as
        KerasHub's reads them. `variables` go to the template, for example `tools`.

        Raises UnsupportedError: KX545 for a model without a chat template, KX511 without jinja2. InvalidInputError: KX546 where the
        template refuses the conversation, KX547 where it does too much, KX548 for messages that are none, KX549 for a broken template.
        """
        if self._chat is None or self.tokenizer is None:
            self._chat = _open_chat(self.tokenizer)
        assert self.tokenizer is not None, "no chat opens without a tokenizer"
        text = self._chat.render(messages, add_generation_prompt=add_generation_prompt, **variables)
        packer = self.tokenizer.record.packers["encoder" if self._is_seq2seq else "prompt"]
        for identifier in packer.start:
            text = text.removeprefix(self.tokenizer.codec.piece(identifier))
        return text

    def check_room(self, texts: Sequence[str], max_length: int | None = None) -> None:
        """Raise InvalidInputError (KX523) where a text would be cut or leave no room for an answer: `generate()` would return it in silence."""
        if self.tokenizer is None:
            return
        packer = self.tokenizer.record.packers["encoder" if self._is_seq2seq else "prompt"]
        room = packer.sequence_length if self._is_seq2seq else self._form.room(self.tokenizer, self._read_max_length(max_length))
        for ids in self.tokenizer.encode(self.with_replacements(texts)):
            length = len(packer.start) + len(ids) + len(packer.end)
            if length > room:
                hint = "shorten it" if self._is_seq2seq else "shorten it, or give a larger `max_length`"
                raise InvalidInputError("KX523", f"the conversation has {length} tokens, and there is room for {room}", hint=hint)

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """What calling the original decoder-only model on `token_ids` and `padding_mask` [batch, length] gives: the logits of every position.

        Raises as `score` does, and InvalidInputError (KX520) for anything but a dict with `token_ids`.
        """
        if not isinstance(inputs, Mapping) or names.TOKEN_IDS not in inputs:
            hint = 'for example {"token_ids": [[1, 2, 0]], "padding_mask": [[1, 1, 0]]}; texts go to generate()'
            raise InvalidInputError("KX520", f"a model is called on a dict with `token_ids`, not {type(inputs).__name__}", hint=hint)
        return self.score(inputs[names.TOKEN_IDS], inputs.get(names.PADDING_MASK))

    def score(
        self,
        token_ids: Any,
        padding_mask: Any = None,
        scoring_mode: str = "logits",
        layer_intercept_fn: Callable[[Any, int], Any] | None = None,
        target_ids: Any = None,
    ) -> Any:
        """What KerasHub's `score()` returns for the same arguments, as a float32 array: logits [batch, length, vocabulary], or with
        `scoring_mode="loss"` the loss of each of `target_ids` [batch, length], padding included.

        `layer_intercept_fn(x, i)` is shown the embeddings (i = -1) and each layer's output, and must return x. Raises UnsupportedError: KX572 where
        the artifact was converted without `--signatures score`, KX575 for an intercept without `score_layers`; InvalidInputError (also a
        ValueError): KX573 in KerasHub's words, KX574 and KX52x for ids that do not fit.
        """
        capacity = self.manifest.cache.capacity
        ids, mask = read_rows(token_ids, padding_mask, vocabulary_size=self.engine.vocabulary_size, capacity=capacity)
        self._warn_if_not_verified()
        return score(self.forward, ids, mask, scoring_mode, layer_intercept_fn, target_ids)

    def score_gradients(self, token_ids: Any, padding_mask: Any = None, *, target_ids: Any) -> ScoreGradients:
        """The loss of each token, as `score(scoring_mode="loss")` gives it, and the gradient of their sum with respect to the embeddings: what a
        `GradientTape` gives for what KerasHub's `score()` intercepts at -1. Raises as `score` does; only SavedModel artifacts can have it."""
        size = self.engine.vocabulary_size
        ids, mask = read_rows(token_ids, padding_mask, vocabulary_size=size, capacity=self.manifest.cache.capacity)
        self._warn_if_not_verified()
        return score_gradients(self.forward, ids, mask, target_ids, size)

    def embed(self, token_ids: Any) -> Any:
        """What the original's `token_embedding(token_ids)` gives: float32 [batch, length, hidden]. Raises UnsupportedError (KX572) where the
        artifact was converted without `--signatures embed`, InvalidInputError (KX52x) for ids that do not fit."""
        ids, _ = read_rows(token_ids, None, vocabulary_size=self.engine.vocabulary_size, capacity=self.manifest.cache.capacity)
        return self.forward.run(names.EMBED, {names.TOKEN_IDS: ids})[names.EMBEDDINGS]

    def close(self) -> None:
        """Give the engine's memory back."""
        self.engine.close()
        if self._forward is not None:
            self._forward.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _is_seq2seq(self) -> bool:
        return self.manifest.task == "seq2seq-lm"

    @property
    def _decoder(self) -> str:
        """What the names of the arrays that are continued begin with."""
        return "decoder_" if self._is_seq2seq else ""

    @property
    def forward(self) -> Forward:
        """The runner of the artifact's signatures over whole rows, opened at its first use."""
        if self._forward is None:
            if self._open_forward is None:
                raise InternalError("KX909", "this model was made without a way to open its other signatures")
            self._forward = self._open_forward()
            self._forward.set_adapter(find_adapter(self.manifest, self._adapter))
        return self._forward

    def _pieces(self, tokenizer: Tokenizer, job: Job, without_prompt: bool) -> Iterator[str]:
        """Feed ids to the text stream as soon as they are final; what remains at the end comes from the result itself."""
        text = text_stream(tokenizer)
        fed = job.prompt.start if without_prompt else 0
        opening = [] if without_prompt else self._form.opening(job.prompt, job.stop_ids)
        if piece := text.feed(opening):
            yield piece
        loop = loop_of(self.engine, self.sampler, job)
        for _ in loop.steps():
            known = int(loop.columns[0])
            if piece := text.feed(loop.ids[0, fed:known].tolist()):
                yield piece
            fed = known
        generated = loop.result()
        whole = generated if without_prompt else self._form.joined(generated, job.prompt, job.stop_ids)
        visible = whole.ids[0][whole.mask[0]].tolist()  # a text prompt has no holes: this is the row up to its stop
        if piece := text.feed(visible[len(opening) + fed :]) + text.end():
            yield piece

    def _generate_texts(
        self, tokenizer: Tokenizer, inputs: Any, max_length: int | None, stop_ids: tuple[int, ...] | None, without_prompt: bool
    ) -> str | list[str]:
        batch = self._read_texts(tokenizer, inputs, max_length)
        generated = generate(self.engine, self.sampler, self._job(batch, stop_ids, visible_only=True))
        generated = self._form.joined(generated, batch.prompt, stop_ids)
        if without_prompt:
            generated = Generated(*_strip(generated, batch.prompt))
        texts = tokenizer.texts(generated.ids, generated.mask)
        return texts[0] if batch.is_single else texts

    def _generate_ids(self, inputs: Any, stop_ids: tuple[int, ...] | None, without_prompt: bool) -> dict[str, Any]:
        decoder = self._decoder
        prompt = self._read_ids(inputs, decoder, self.manifest.cache.capacity)
        encoder = self._read_ids(inputs, "encoder_", self.manifest.cache.encoder_capacity) if self._is_seq2seq else None
        if encoder is not None and len(encoder.ids) != len(prompt.ids):
            raise InvalidInputError("KX520", f"{len(encoder.ids)} encoder prompts do not fit {len(prompt.ids)} decoder prompts")
        images = self._read_placed_images(inputs, prompt)
        generated = generate(self.engine, self.sampler, self._job(_Batch(prompt, encoder, images), stop_ids))
        generated = self._form.joined(generated, prompt, stop_ids)
        ids, mask = _strip(generated, prompt) if without_prompt else (generated.ids, self._form.as_given(generated.mask))
        given = {forms.IMAGES: inputs[forms.IMAGES]} if images is not None else {}
        return {f"{decoder}token_ids": ids, f"{decoder}padding_mask": mask, **given}

    def _read_ids(self, inputs: Any, name: str, capacity: int) -> Prompt:
        """The prompt called `name` of a dict of arrays."""
        if not isinstance(inputs, Mapping):
            hint = 'for example {"token_ids": [[1, 2, 0]], "padding_mask": [[1, 1, 0]]}; texts need the tokenizer'
            raise InvalidInputError("KX520", f"without a tokenizer the prompt is a dict of arrays, not {type(inputs).__name__}", hint=hint)
        return self._form.read(inputs, vocabulary_size=self.engine.vocabulary_size, capacity=capacity, name=name)

    def _read_texts(self, tokenizer: Tokenizer, inputs: Any, max_length: int | None) -> _Batch:
        """The packed prompts, the encoder's, and the images among them."""
        length = self._read_max_length(max_length)
        capacity = self.manifest.cache.capacity
        if not self._is_seq2seq:
            given, images = forms.split_images(inputs)
            texts, is_single = forms.read_texts(given)
            prompt = self._checked(self._form.pack(tokenizer, self.with_replacements(texts), length, capacity), "")
            return _Batch(prompt, None, self._read_images(images, prompt, is_single=is_single), is_single=is_single)
        encoder_texts, decoder_texts, is_single = forms.read_text_pair(inputs)
        encoder = self._checked(tokenizer.pack("encoder", encoder_texts), "encoder_")
        decoder = self._checked(tokenizer.pack("decoder", decoder_texts, length, capacity=capacity), "decoder_")
        return _Batch(decoder, encoder, is_single=is_single)

    def with_replacements(self, texts: Sequence[str]) -> list[str]:
        """Texts as they become ids: with what the original's preprocessor writes where an image stands."""
        return list(texts) if self.manifest.images is None else image_prompts.with_replacements(texts, self.manifest.images)

    def _read_images(self, given: Any, prompt: Prompt, *, is_single: bool) -> image_prompts.PromptImages | None:
        """The images of packed texts."""
        if given is None:
            return None
        record = self._images_record()
        rows = pixels.read_images(given, len(prompt.ids), is_single=is_single, record=record)
        return image_prompts.place_images(prompt, pixels.to_pixel_values(rows, record), record)

    def _read_placed_images(self, inputs: Mapping[str, Any], prompt: Prompt) -> image_prompts.PromptImages | None:
        """The images of prompts that came as ids."""
        if inputs.get(forms.IMAGES) is None or self._is_seq2seq:
            return None
        return image_prompts.read_placed_images(inputs, prompt, self._images_record())

    def _images_record(self) -> Images:
        """What the artifact takes. Raises UnsupportedError (KX584) where that is text alone, InvalidInputError (KX555) for sizes that are none."""
        record = self.manifest.images
        if record is None or self.manifest.signature(names.VISION) is None:
            hint = "" if record is None or not record.tokens else "convert it again, without --text-only"
            raise UnsupportedError("KX584", "this artifact takes texts alone, no images", hint=hint)
        if min(record.height, record.width, record.channels, record.tokens) < 1 or (self.tokenizer is not None and record.steps is None):
            raise InvalidInputError("KX555", "the manifest does not say how images become pixel values", hint="convert the model again")
        return record

    def _checked(self, prompt: Prompt, name: str) -> Prompt:
        """What a tokenizer gave is checked as what a caller gives."""
        return self._form.checked(prompt, self.engine.vocabulary_size, name)

    def _read_max_length(self, max_length: int | None) -> int:
        return self._form.max_length(max_length, self.manifest.generation.max_length, self.manifest.cache.capacity)

    def _read_stop_ids(self, stop_token_ids: Any) -> tuple[int, ...] | None:
        if self.tokenizer is None:
            return read_stop_ids(stop_token_ids, automatic=None)
        return read_stop_ids(stop_token_ids, self.manifest.generation.stop_token_ids or self.tokenizer.record.stop_token_ids)

    def _job(self, batch: _Batch, stop_ids: tuple[int, ...] | None, *, visible_only: bool = False) -> Job:
        images = None if batch.images is None else ImagePrefill(batch.images, lambda: self.forward)
        if images is not None and self.sampler.steps_together(len(batch.prompt.ids)):
            message = f"{type(self.sampler).__name__} looks at all rows of a step together, which KerasHub's own prompts with images do not allow"
            raise UnsupportedError("KX585", message, hint="choose greedy, top_k, top_p or random")
        original = self.manifest.generation
        return Job(batch.prompt, batch.encoder, stop_ids, visible_only, original.rng, original.schedule, original.prefill, images)

    def _warn_if_not_verified(self) -> None:
        if self.manifest.parity.verdict == _NOT_VERIFIED and not self._warned:
            self._warned = True
            message = "this artifact was not compared with its original (verdict: not-verified); `kexport verify` compares it"
            warnings.warn(message, UserWarning, stacklevel=3)


def _preprocessor_of(tokenizer: Tokenizer, manifest: Manifest) -> Preprocessor:
    form = FORMS[manifest.generation.prompt]
    return Preprocessor(tokenizer, sequence_length=manifest.generation.max_length, is_seq2seq=manifest.task == "seq2seq-lm", form=form)


def _strip(generated: Generated, prompt: Prompt) -> tuple[Any, Any]:
    return strip_prompt(generated.ids, generated.mask, prompt.mask)


def _open_chat(tokenizer: Tokenizer | None) -> ChatTemplate:
    record = tokenizer.record.chat if tokenizer is not None else None
    if tokenizer is None or record is None or tokenizer.chat_template is None:
        hint = "base models have none: use generate(); or convert a source whose tokenizer_config.json has a chat_template"
        raise UnsupportedError("KX545", "this artifact has no chat template", hint=hint)
    try:
        import jinja2
        from kexport.runtime.chat import ChatTemplate
    except ModuleNotFoundError as error:
        raise UnsupportedError("KX511", "chat templates need `jinja2`, which is not installed", hint='pip install "kexport[chat]"') from error
    try:
        return ChatTemplate(tokenizer.chat_template, record.tokens)
    except jinja2.TemplateSyntaxError as error:
        hint = "the file is damaged; convert the model again or fetch the artifact from its source again"
        raise InvalidInputError("KX549", f"`{record.file}`, line {error.lineno}: {error.message}", hint=hint) from error
