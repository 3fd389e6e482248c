"""Generative KerasHub classes that do not convert, by name, each with its reason: a source of one is refused before any heavy work.

A test walks KerasHub's own list: a class is either proven (converter/families.py) or stands here.
"""

from __future__ import annotations

from kexport.converter.other_tasks import KERAS_EXPORT, OtherTask

REFUSALS: dict[str, OtherTask] = {
    "BLIP2CausalLM": OtherTask(
        "writes text about images: its vision tower and the transformer that queries it are not captured yet", "convert the OPT model inside it as an OPTCausalLM"
    ),
    "BLIP2Seq2SeqLM": OtherTask(
        "writes text about images: its vision tower and the transformer that queries it are not captured yet", "convert the T5 model inside it as a T5Seq2SeqLM"
    ),
    "EdRecSeq2SeqLM": OtherTask(
        "recommends items: its generate() feeds the first token of a prompt alone and attends to zeros in the place of the others, so that its answers "
        "depend on the batch",
        "--task backbone exports its backbone alone",
    ),
    "Gemma4AssistantCausalLM": OtherTask(
        "drafts tokens for a larger Gemma 4 and generates nothing by itself (it reads the larger model's caches)", "convert the Gemma4CausalLM it belongs to"
    ),
    "MoonshineAudioToText": OtherTask("writes down speech: its audio front end is not captured yet", KERAS_EXPORT),
    "PaliGemmaCausalLM": OtherTask(
        "writes text about images: its image prefix, to which prompts attend in both directions, is not captured yet",
        "Gemma3CausalLM takes images",
    ),
    "PARSeqCausalLM": OtherTask("reads text off images, with a cache of two streams over positions instead of tokens", KERAS_EXPORT),
}
