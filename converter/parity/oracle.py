"""The original as the judge: its public `generate()`, and its own cached logits along given rows.

Two oracles: `LoadedOracle` runs the model as loaded; `StreamedOracle` runs the same stock code on a model without weights in memory,
reading each weight from the checkpoint when an op needs it.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from kexport.converter.parity.cases import Case, generate_inputs, generated_rows
from kexport.converter.parity.images import placed_images, raw_images
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import Images, Rng
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]


class Oracle(ABC):
    """`description` goes into the certificate. `images`: what the artifacts take of these, None: none. `steps`: None for whole generations, else how
    many new tokens are affordable. `fix`: what the artifact corrects, so that the original's uncached forward is the judge; empty: its own loop is.
    `left_out`: a sentence for the certificate about each thing that was not asked."""

    description: str
    steps: int | None = None

    def __init__(self, task: Any, pad: int, *, fix: str = "", images: Images | None = None) -> None:
        self.task, self.pad, self.fix, self.images = task, pad, fix, images
        self.left_out: list[str] = []
        if fix:
            self.description = f"KerasHub's uncached forward, greedy, float32, TensorFlow on CPU; its generate() gives something else: {fix}"

    @property
    def prompt_form(self) -> str:
        """How the original takes prompts."""
        from kexport.graphs.capture.semantics import semantics_of

        return semantics_of(self.task).prompt

    @abstractmethod
    def draws_as(self, rng: Rng) -> bool:
        """Whether it draws, and from the same random numbers as an artifact with `rng`; if not, `left_out` says so."""

    @abstractmethod
    def generate(self, case: Case) -> Tokens:
        """What the original gives: int32 [rows, max_length]."""

    def texts(self, case: Case) -> list[str]:
        """What the original gives for text prompts."""
        raise NotImplementedError

    def logits(self, case: Case, rows: Tokens) -> Logits:
        """float32 [rows, length, vocabulary]: the original's cached forward over whole rows, next-token logits at each position. Where the logits
        depend on how tokens are fed, as the original's loop feeds them; NaN in front of its first step."""
        import tensorflow as tf

        if self.fix:
            return self.forward(names.SCORE, {names.TOKEN_IDS: rows, names.PADDING_MASK: np.ones(rows.shape, bool)})[names.LOGITS]
        with tf.device("CPU"):
            if case.is_literal:
                return self._stepped_logits(case, rows)
            return np.asarray(self._cached_forward(case, rows)[0], np.float32)

    def _stepped_logits(self, case: Case, rows: Tokens) -> Logits:
        """The original's own prefill of the padded prompts, then `rows` token by token from the last one that all prompts have."""
        import tensorflow as tf

        ids, mask = (tf.constant(part) for part in case.decoder_rows(self.pad))
        wanted = inspect.signature(self.task._build_cache).parameters
        _, cache = self.task._build_cache(ids, mask) if "padding_mask" in wanted else self.task._build_cache(ids)
        steps = []
        for column in range(case.start - 1, rows.shape[1]):
            logits, _, cache = self.task.call_with_cache(tf.constant(rows[:, column : column + 1]), cache, tf.constant(column))
            steps.append(np.asarray(logits, np.float32))
        before = np.full((len(rows), case.start - 1, steps[0].shape[-1]), np.nan, np.float32)
        return np.concatenate([before, *steps], axis=1)

    def hidden_states(self, case: Case, rows: Tokens) -> NDArray[np.float32]:
        """float32 [rows, length, hidden size]: what the same forward makes logits of."""
        import tensorflow as tf

        with tf.device("CPU"):
            return np.asarray(self._cached_forward(case, rows)[1], np.float32)

    def forward(self, signature: str, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The original over whole rows, for a signature of names.FORWARD: outputs by name, float32. Logits are those of KerasHub's own score()
        where the family has one, else of its plain forward."""
        import tensorflow as tf
        from kexport.graphs.capture.forward import run_stock
        from kexport.graphs.capture.images import images_of

        with tf.device("CPU"):
            tensors = {name: tf.constant(array) for name, array in feeds.items()}
            if signature == names.VISION:
                family = images_of(self.task)
                assert family is not None
                return {names.IMAGE_EMBEDDINGS: np.asarray(family.vision(tensors[names.PIXEL_VALUES]), np.float32)}
            outputs = run_stock(self.task, signature, tensors)
            if signature == names.SCORE and hasattr(self.task, "score"):
                outputs = {names.LOGITS: self.task.score(tensors[names.TOKEN_IDS], padding_mask=tensors[names.PADDING_MASK])}
            return {name: np.asarray(tensor, np.float32) for name, tensor in outputs.items()}

    def called(self, rows: Tokens) -> Logits:
        """float32 [rows, length, vocabulary]: what the original gives when it is called on whole rows, as a function."""
        import tensorflow as tf
        from kexport.graphs.capture.forward import call

        with tf.device("CPU"):
            return np.asarray(call(self.task, {names.TOKEN_IDS: tf.constant(rows), names.PADDING_MASK: tf.ones(rows.shape, tf.bool)}), np.float32)

    def _cached_forward(self, case: Case, rows: Tokens) -> Any:
        """Logits and hidden states, and what else the family gives."""
        import tensorflow as tf
        from kexport.graphs.capture.cache_forms import cache_form
        from kexport.graphs.capture.decoder_forms import decoder_form

        ids = tf.constant(rows)
        if case.encoder:
            encoder_ids, encoder_mask = (tf.constant(part) for part in case.encoder_rows(self.pad))
            return decoder_form(self.task).whole(encoder_ids, encoder_mask, ids)
        form = cache_form(self.task)
        if case.images:
            return self._cached_forward_with_images(case, ids, form.empty(*rows.shape))
        return form.call(self.task, ids, form.empty(*rows.shape), tf.constant(0))  # SmolLM3 takes tensors only

    def _cached_forward_with_images(self, case: Case, ids: Any, cache: Any) -> Any:
        import tensorflow as tf
        from kexport.graphs.capture.images import images_of

        family = images_of(self.task)
        assert family is not None and self.images is not None
        placed = {name: tf.constant(array) for name, array in placed_images(case, self.images, ids.shape[1]).items()}
        return family.cached_forward(ids, cache, placed["images"], placed["vision_mask"], placed["vision_indices"])


def rng_mode() -> Literal["tf_cpu", "xla"]:
    """The kernels that KerasHub's seeded draws run on: see the manifest's `Rng`. Keras compiles with XLA where TensorFlow sees a GPU."""
    import tensorflow as tf

    return "xla" if tf.config.list_physical_devices("GPU") else "tf_cpu"


class LoadedOracle(Oracle):
    """The model with its weights in memory; `generate()` is KerasHub's public one. The model is left as found."""

    description = "KerasHub generate(), greedy and seeded, float32, TensorFlow on CPU"

    def draws_as(self, rng: Rng) -> bool:
        """See Oracle."""
        if self.fix:
            self.left_out.append("seeded sampling was not compared: the artifact corrects what the original's own generate() gives, which the original draws from")
            return False
        mode = rng_mode()
        if rng.mode != mode:
            self.left_out.append(f"seeded sampling was not compared: the artifact draws as KerasHub does under `{rng.mode}`, here it runs under `{mode}`")
        return rng.mode == mode

    def generate(self, case: Case) -> Tokens:
        """See Oracle."""
        if self.fix:
            return self._uncached_rows(case)
        inputs: dict[str, Any] = generate_inputs(case, self.pad, self.prompt_form)
        if case.images:
            assert self.images is not None
            inputs |= placed_images(case, self.images, case.max_length)
        with self._sampling(case, preprocessor=None):
            return generated_rows(case, self._generated(inputs, case.stop_token_ids), self.prompt_form)

    def _uncached_rows(self, case: Case) -> Tokens:
        """KerasHub's greedy loop, each step a forward over the whole rows so far."""
        ids, mask = case.decoder_rows(self.pad)
        for column in range(case.start, case.max_length):
            if case.stop_token_ids is not None and (np.isin(ids, case.stop_token_ids) & ~mask).any(axis=1).all():
                break
            best = self.logits(case, ids[:, :column])[:, -1].argmax(axis=-1)
            ids[:, column] = np.where(mask[:, column], ids[:, column], best)
        return ids

    def _generated(self, inputs: dict[str, Any], stop_token_ids: Any) -> Any:
        """What `generate()` returns for ids; where it fails only in putting batches together (Gemma 3 without images), what it puts together."""
        counter = getattr(getattr(self.task.sampler, "seed_generator", None), "state", None)
        start = None if counter is None else np.asarray(counter)
        try:
            return self._generate(inputs, stop_token_ids=stop_token_ids)
        except ValueError as error:
            if "None" not in str(error) or self.task.generate_function is None:
                raise
            if counter is not None:
                counter.assign(start)  # the run that failed in the end has drawn already
            return self.task.generate_function(inputs, stop_token_ids=stop_token_ids)

    def texts(self, case: Case) -> list[str]:
        """See Oracle."""
        with self._sampling(case, preprocessor=self.task.preprocessor), self._short_prefill(case):
            inputs: Any = list(case.texts)
            if case.images:
                assert self.images is not None
                inputs = {"prompts": inputs, "images": raw_images(case, self.images)}
            return list(self._generate(inputs, max_length=case.max_length))

    def _generate(self, inputs: Any, **options: Any) -> Any:
        """The public `generate()`, compiled; where the model cannot be compiled (Qwen with local windows), op by op, as `run_eagerly=True` has it."""
        import tensorflow as tf

        try:
            return self.task.generate(inputs, **options)
        except tf.errors.OperatorNotAllowedInGraphError:
            self.description = f"{LoadedOracle.description}, run_eagerly=True"
            self.task.run_eagerly, self.task.generate_function = True, None
            return self.task.generate(inputs, **options)

    @contextlib.contextmanager
    def _short_prefill(self, case: Case) -> Iterator[None]:
        """Split prompts no longer padded than they need to be: KerasHub compiles their prefill token by token, padding included."""
        preprocessor = self.task.preprocessor
        found = preprocessor.sequence_length
        if self.prompt_form == "split":
            preprocessor.sequence_length = min(found, max(len(preprocessor.tokenizer(text)) for text in case.texts))
        try:
            yield
        finally:
            preprocessor.sequence_length = found

    @contextlib.contextmanager
    def _sampling(self, case: Case, preprocessor: Any) -> Iterator[None]:
        """The task with the case's sampler, a new one, and the given preprocessor for a while; its compiled function comes back untouched."""
        import keras_hub
        import tensorflow as tf

        task = self.task
        found = (task.sampler, task.generate_function, task.preprocessor, task.run_eagerly)
        wanted = case.sampler or {"class_name": "GreedySampler", "config": {}}
        task.sampler = getattr(keras_hub.samplers, wanted["class_name"])(**wanted["config"])
        task.generate_function, task.preprocessor = None, preprocessor
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel(logging.ERROR)  # each case traces anew, which TensorFlow would warn about
        try:
            yield
        finally:
            logger.setLevel(level)
            task.sampler, task.generate_function, task.preprocessor, task.run_eagerly = found


class StreamedOracle(Oracle):
    """Stock code on an abstract model, each weight read from `weights` when needed: a prompt and a few greedy steps."""

    steps = 3

    def __init__(self, task: Any, pad: int, weights: Any, *, fix: str = "", images: Images | None = None) -> None:
        super().__init__(task, pad, fix=fix, images=images)
        self._weights = weights
        kind = f"uncached forward (its generate() gives something else: {fix})" if fix else "cached forward"
        self.description = f"KerasHub's {kind}, greedy, float32, weights streamed from the checkpoint, {self.steps} steps"

    def draws_as(self, rng: Rng) -> bool:
        """See Oracle."""
        self.left_out.append("seeded sampling was not compared: with streamed weights the original takes greedy steps only")
        return False

    def generate(self, case: Case) -> Tokens:
        """Greedy steps of the cached forward, each over the whole row so far; rows of equal length only."""
        ids, _ = case.decoder_rows(self.pad)
        for column in range(len(case.prompts[0]), case.max_length):
            logits = self.logits(case, ids[:, :column])
            ids[:, column] = logits[:, -1].argmax(axis=-1)
        return ids

    def logits(self, case: Case, rows: Tokens) -> Logits:
        """See Oracle."""
        with self._streaming():
            return super().logits(case, rows)

    def hidden_states(self, case: Case, rows: Tokens) -> NDArray[np.float32]:
        """See Oracle."""
        with self._streaming():
            return super().hidden_states(case, rows)

    def forward(self, signature: str, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See Oracle."""
        with self._streaming():
            return super().forward(signature, feeds)

    def called(self, rows: Tokens) -> Logits:
        """See Oracle."""
        with self._streaming():
            return super().called(rows)

    def _streaming(self) -> contextlib.AbstractContextManager[None]:
        from kexport.graphs.capture.abstract import streaming
        from kexport.graphs.capture.names import ParameterNames

        variables = list(self.task.variables)
        known = ParameterNames(variables)
        return streaming(variables, lambda variable: self._weights.read(known.of(variable)))
