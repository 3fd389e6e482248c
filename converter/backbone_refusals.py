"""KerasHub backbones that do not convert as text backbones, by name, each with its reason: refused before any heavy work.

A test walks KerasHub's own list: a backbone is either compared with the original in tests or stands here. What is new there and takes no tables of token
ids is refused by its inputs (KX380).
"""

from __future__ import annotations

from kexport.converter.other_tasks import KERAS_EXPORT, OtherTask

_OF_IMAGES = OtherTask("takes images, no table of token ids", KERAS_EXPORT)
_OF_AUDIO = OtherTask("takes audio features, no table of token ids", KERAS_EXPORT)
_COMPARES = OtherTask("takes images beside text", "convert its text encoder alone, the live object `backbone.text_encoder`, or " + KERAS_EXPORT)
_MAKES_IMAGES = OtherTask("makes images", KERAS_EXPORT)

BACKBONE_REFUSALS: dict[str, OtherTask] = {
    **dict.fromkeys(
        (
            "BASNetBackbone", "CLIPVisionEncoder", "CSPNetBackbone", "DFineBackbone", "DINOV2Backbone", "DINOV3Backbone", "DeepLabV3Backbone", "DeiTBackbone",
            "DenseNetBackbone", "DepthAnythingBackbone", "EfficientNetBackbone", "FeaturePyramidBackbone", "HGNetV2Backbone", "MetaCLIP2VisionEncoder",
            "MiTBackbone", "MobileNetBackbone", "MobileNetV5Backbone", "PARSeqBackbone", "ResNetBackbone", "RetinaNetBackbone", "SAMBackbone",
            "SegFormerBackbone", "SigLIPVisionEncoder", "SwinTransformerBackbone", "VGGBackbone", "ViTBackbone", "ViTDetBackbone", "XceptionBackbone",
        ),
        _OF_IMAGES,
    ),
    **dict.fromkeys(("MoonshineBackbone", "WhisperBackbone"), _OF_AUDIO),
    **dict.fromkeys(("CLIPBackbone", "MetaCLIP2Backbone"), _COMPARES),
    **dict.fromkeys(("FluxBackbone", "StableDiffusion3Backbone"), _MAKES_IMAGES),
    "BLIP2Backbone": OtherTask("takes images beside text", "convert the language model inside it, or " + KERAS_EXPORT),
    **dict.fromkeys(("PaliGemmaBackbone", "SAM3PromptableConceptBackbone", "SigLIPBackbone"), OtherTask("takes images beside text", KERAS_EXPORT)),
    "SigLIPTextEncoder": OtherTask("takes rows of exactly as many tokens as its position table has, and no others", KERAS_EXPORT),
    "VideoPrismBackbone": OtherTask("takes videos, with or without text", KERAS_EXPORT),
}  # fmt: skip
