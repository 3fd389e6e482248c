"""A KerasHub script that trains a Gemma, without and with LoRA, and one line more at the end of each."""

import sys

import keras
import keras_hub
import numpy as np
from kexport.converter import convert

place, output = sys.argv[1:3]
features = ["The quick brown fox jumped.", "I forgot my homework."]


def ask(gemma_lm):
    """What the trained object says."""
    gemma_lm.compile(sampler="greedy")
    return gemma_lm.generate(["This is a", "Where are you", "The quick"], max_length=24)


def fit(gemma_lm):
    """A learning rate that changes what it says in a few steps."""
    gemma_lm.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(1e-2),
        sampler="greedy",
    )
    gemma_lm.fit(x=features, batch_size=2, epochs=4, verbose=0)


keras.utils.set_random_seed(7)
gemma_lm = keras_hub.models.GemmaCausalLM.from_preset(place)
before = ask(gemma_lm)
fit(gemma_lm)
convert(gemma_lm, output=f"{output}/fitted")
fitted = ask(gemma_lm)

gemma_lm = keras_hub.models.GemmaCausalLM.from_preset(place)
gemma_lm.backbone.enable_lora(rank=4)
fit(gemma_lm)
convert(gemma_lm, output=f"{output}/adapted")
adapted = ask(gemma_lm)
np.savez(f"{output}/texts.npz", before=before, fitted=fitted, adapted=adapted)
