"""The TFLite target: graphs as one flatbuffer for LiteRT, written directly, with caches updated in place."""

from kexport.targets.tflite.emit import emit
from kexport.targets.tflite.package import write_vendor_files
from kexport.targets.tflite.target import TfliteTarget

TARGET = TfliteTarget()

__all__ = ["TARGET", "TfliteTarget", "emit", "write_vendor_files"]
