"""The OpenVINO target: graphs as IR files with the caches inside the model as state, in the forms its CPU plugin and GenAI fuse."""

from kexport.targets.openvino.emit import emit
from kexport.targets.openvino.package import write_vendor_files
from kexport.targets.openvino.target import OpenVinoTarget

TARGET = OpenVinoTarget()

__all__ = ["TARGET", "OpenVinoTarget", "emit", "write_vendor_files"]
