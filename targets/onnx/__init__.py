"""The ONNX target: graphs as files for onnxruntime, with caches written in place by GroupQueryAttention."""

from kexport.targets.onnx.emit import OnnxTarget, emit
from kexport.targets.onnx.package import write_vendor_files

TARGET = OnnxTarget()

__all__ = ["TARGET", "OnnxTarget", "emit", "write_vendor_files"]
