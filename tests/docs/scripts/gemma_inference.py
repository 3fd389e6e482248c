"""A KerasHub script: everything one does with a Gemma that is not training. Run with KerasHub, and with the load line changed."""

import sys

import keras
import keras_hub
import numpy as np

load = keras_hub.models.GemmaCausalLM.from_preset  # the load line

place, results = sys.argv[1], {}
gemma_lm = load(place)
results["one"] = gemma_lm.generate("I want to say", max_length=30)
results["batch"] = gemma_lm.generate(["This is a", "Where are you"], max_length=30)
results["stripped"] = gemma_lm.generate(["This is a", "Where are you"], max_length=30, strip_prompt=True)

gemma_lm.compile(sampler="top_k")
assert isinstance(gemma_lm.generate("I want to say", max_length=30), str)  # unseeded: another text each time
gemma_lm.compile(sampler=keras_hub.samplers.TopKSampler(k=3, seed=42))
results["top k"] = gemma_lm.generate("I want to say", max_length=30)
gemma_lm.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=2))
results["beam"] = gemma_lm.generate("I want to say", max_length=30)
gemma_lm.compile(sampler="greedy")

generations = gemma_lm.generate(["This is a", "Where are you"], max_length=20)
preprocessed = gemma_lm.preprocessor.generate_preprocess(generations, sequence_length=24)
token_ids, padding_mask = preprocessed["token_ids"], preprocessed["padding_mask"]
target_ids = keras.ops.roll(token_ids, shift=-1, axis=1)
results["ids"] = np.asarray(token_ids)
results["logits"] = np.asarray(gemma_lm.score(token_ids=token_ids, padding_mask=padding_mask))
results["loss"] = np.asarray(
    gemma_lm.score(token_ids=token_ids, padding_mask=padding_mask, scoring_mode="loss", target_ids=target_ids)
)

gemma_lm = load(place, preprocessor=None)
prompt = {
    "token_ids": np.array([[2, 214, 60, 0, 0, 0, 0, 0, 0]] * 2),
    "padding_mask": np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0]] * 2),
}
gemma_lm.compile(sampler="greedy")
results["id mode"] = np.asarray(gemma_lm.generate(prompt, stop_token_ids=None)["token_ids"])
np.savez(sys.argv[2], **{name: np.asarray(value) for name, value in results.items()})
