"""The ONNX target: graphs as files for onnxruntime, with caches written in place by GroupQueryAttention."""

from kexport.targets.onnx.emit import emit
from kexport.targets.onnx.package import write_vendor_files
from kexport.targets.onnx.target import OnnxTarget

TARGET = OnnxTarget()

__all__ = ["TARGET", "OnnxTarget", "emit", "write_vendor_files"]
