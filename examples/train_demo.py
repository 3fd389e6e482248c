"""Train the demo model: a small Mistral with its tokenizer, on the stories of `stories.py`, saved as a KerasHub preset.

    python examples/train_demo.py                 # writes examples/demo_preset, about twelve minutes on two cores

Rotary positions, grouped query heads and a sliding window of 64 tokens over rows of 256: the parts of a Mistral that an export has to get right.
Seeds are fixed; retraining gives a model of the same quality, not the same bits (the order of float sums is the thread pool's).
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from stories import tales
from text_measures import Ids, pack_rows

if TYPE_CHECKING:
    import keras
    import keras_hub

SEED = 7
VOCABULARY_SIZE = 2048
TOKENIZER_STORIES = 2000
TRAINING_STORIES = 6000
ROW_LENGTH = 256
BATCH_SIZE = 4
LEARNING_RATE = 2.5e-3
WARMUP_STEPS = 200
REPORT_STEPS = 200
FINAL_RATE_SHARE = 0.02
WEIGHT_DECAY = 0.05
GRADIENT_NORM = 1.0
SEQUENCE_LENGTH = 512  # of the preprocessor: generate()'s default total length
PRESET = Path(__file__).parent / "demo_preset"
LICENCE_NOTE = Path(__file__).parent / "demo_preset_readme.md"
MODEL = {
    "vocabulary_size": VOCABULARY_SIZE,
    "num_layers": 4,
    "num_query_heads": 6,
    "num_key_value_heads": 2,
    "hidden_dim": 192,
    "intermediate_dim": 448,
    "sliding_window": 64,
    "dropout": 0.0,
}


@click.command()
@click.option(
    "--output", type=click.Path(path_type=Path), default=PRESET, show_default=True, help="Where the preset goes; an old one is replaced."
)
@click.option("--stories", "count", default=TRAINING_STORIES, show_default=True, help="Stories to train on, once each.")
@click.option("--threads", default=2, show_default=True, help="Threads TensorFlow may use.")
def main(output: Path, count: int, threads: int) -> None:
    """Train the demo model and save it as a KerasHub preset."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(SEED)
    proto = train_tokenizer()
    rows = training_rows(proto, count)
    click.echo(f"{count} stories, {rows.size} tokens", err=True)
    task = train(rows)
    save(task.backbone, proto, output)
    click.echo(f"saved {output}", err=True)


def train_tokenizer() -> bytes:
    """Train the SentencePiece model: byte pair encoding that falls back to bytes, Mistral's form. Returns the serialized model.

    It is trained on paragraphs, so the line break is in no piece and always becomes the byte piece `<0x0A>`.
    """
    import sentencepiece

    model = io.BytesIO()
    paragraphs = (paragraph for story in tales(TOKENIZER_STORIES) for paragraph in story.split("\n"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=paragraphs,
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY_SIZE,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def training_rows(proto: bytes, count: int) -> Ids:
    """Return the rows `[rows, ROW_LENGTH + 1]` of the first `count` stories."""
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=proto)
    rows = pack_rows([tokenizer.encode(story) for story in tales(count)], ROW_LENGTH, tokenizer.bos_id(), tokenizer.eos_id())
    return np.random.default_rng(SEED).permutation(rows)  # here, because a KerasHub task's fit() does not shuffle arrays


def train(rows: Ids) -> keras_hub.models.MistralCausalLM:
    """Train a new model on every row once."""
    import keras
    import keras_hub

    task = keras_hub.models.MistralCausalLM(backbone=keras_hub.models.MistralBackbone(**MODEL), preprocessor=None)
    task.compile(
        optimizer=keras.optimizers.AdamW(
            learning_rate(len(rows) // BATCH_SIZE), weight_decay=WEIGHT_DECAY, beta_2=0.95, global_clipnorm=GRADIENT_NORM
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    full = rows[: len(rows) // BATCH_SIZE * BATCH_SIZE]  # XLA compiles once a shape: no smaller last batch
    inputs = {"token_ids": full[:, :-1], "padding_mask": np.ones_like(full[:, :-1])}
    task.fit(inputs, full[:, 1:], batch_size=BATCH_SIZE, epochs=1, verbose=0, callbacks=[progress()], shuffle=False)
    return task


def learning_rate(steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the schedule: a short warm-up, then a cosine down to a small share of the peak."""
    import keras

    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(steps - WARMUP_STEPS, 1),
        alpha=FINAL_RATE_SHARE,
        warmup_target=LEARNING_RATE,
        warmup_steps=WARMUP_STEPS,
    )


def progress() -> keras.callbacks.Callback:
    """Return a callback that now and then reports, on standard error, the mean loss since its last report."""
    import keras

    total = 0.0

    def report(step: int, logs: dict[str, Any]) -> None:
        nonlocal total
        if (step + 1) % REPORT_STEPS == 0:
            so_far = logs["loss"] * (step + 1)  # Keras gives the mean over the epoch
            click.echo(f"step {step + 1}: loss {(so_far - total) / REPORT_STEPS:.3f}", err=True)
            total = so_far

    return keras.callbacks.LambdaCallback(on_train_batch_end=report)


def save(backbone: keras_hub.models.MistralBackbone, proto: bytes, output: Path) -> None:
    """Save model, tokenizer and the licence note as a preset; `output` is replaced only by a complete one."""
    import keras_hub

    tokenizer = keras_hub.models.MistralTokenizer(proto=proto)
    preprocessor = keras_hub.models.MistralCausalLMPreprocessor(tokenizer, sequence_length=SEQUENCE_LENGTH)
    task = keras_hub.models.MistralCausalLM(backbone=backbone, preprocessor=preprocessor)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        fresh = Path(scratch) / "preset"
        task.save_to_preset(str(fresh))
        shutil.copyfile(LICENCE_NOTE, fresh / "README.md")
        shutil.rmtree(output, ignore_errors=True)
        fresh.rename(output)


if __name__ == "__main__":
    main()
