"""What a source is that generates no text, by the name of its KerasHub class, and which export fits it."""

from __future__ import annotations

from dataclasses import dataclass

_BACKBONE = "--task backbone exports its backbone alone"
KERAS_EXPORT = 'load it with keras_hub and use Keras\'s own `model.export(path, format="onnx")` or `format="tf_saved_model"`'


@dataclass(frozen=True)
class OtherTask:
    """`what`: what it does instead. `hint`: the export that fits."""

    what: str
    hint: str


# The end of the class's name -> what it is. The first that fits counts.
_SUFFIXES = {
    "TextClassifier": OtherTask("classifies text", _BACKBONE),
    "MaskedLM": OtherTask("fills masked tokens in", _BACKBONE),
    "TextEmbedder": OtherTask("turns text into vectors", _BACKBONE),
    "ImageClassifier": OtherTask("classifies images", KERAS_EXPORT),
    "ImageSegmenter": OtherTask("segments images", KERAS_EXPORT),
    "ObjectDetector": OtherTask("finds objects in images", KERAS_EXPORT),
    "DepthEstimator": OtherTask("estimates depth in images", KERAS_EXPORT),
    "TextToImage": OtherTask("makes images", KERAS_EXPORT),
    "ImageToImage": OtherTask("makes images", KERAS_EXPORT),
    "Inpaint": OtherTask("makes images", KERAS_EXPORT),
    "AudioToText": OtherTask("writes down speech", KERAS_EXPORT),
}
_UNKNOWN = OtherTask("does not generate text", _BACKBONE)
_TEXT_ENCODER = OtherTask("encodes text and does not generate any", _BACKBONE)
_IMAGE_ENCODER = OtherTask("encodes images and does not generate text", KERAS_EXPORT)

# KerasHub 0.32's converters of transformers models that generate no text: the config's model_type -> the Keras class, and what it is.
OTHER_MODEL_TYPES: dict[str, tuple[str, OtherTask]] = {
    "albert": ("AlbertBackbone", _TEXT_ENCODER),
    "bert": ("BertBackbone", _TEXT_ENCODER),
    "deit": ("DeiTBackbone", _IMAGE_ENCODER),
    "dinov2": ("DINOV2Backbone", _IMAGE_ENCODER),
    "dinov2_with_registers": ("DINOV2Backbone", _IMAGE_ENCODER),
    "dinov3_vit": ("DINOV3Backbone", _IMAGE_ENCODER),
    "distilbert": ("DistilBertBackbone", _TEXT_ENCODER),
    "esm": ("ESMBackbone", OtherTask("encodes proteins and does not generate text", _BACKBONE)),
    "metaclip_2": ("MetaCLIP2Backbone", OtherTask("compares images with text and does not generate any", KERAS_EXPORT)),
    "roberta": ("RobertaBackbone", _TEXT_ENCODER),
    "sam3_video": ("SAM3PromptableConceptBackbone", _IMAGE_ENCODER),
    "swin": ("SwinTransformerBackbone", _IMAGE_ENCODER),
    "vit": ("ViTBackbone", _IMAGE_ENCODER),
    "xlm-roberta": ("XLMRobertaBackbone", _TEXT_ENCODER),
}


def other_task(class_name: str) -> OtherTask:
    """What the class does, as far as its name tells."""
    return next((task for suffix, task in _SUFFIXES.items() if class_name.endswith(suffix)), _UNKNOWN)
