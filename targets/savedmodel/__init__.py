"""The SavedModel target: graphs as TensorFlow functions, variables written tensor by tensor. No Keras in what it writes."""

from kexport.targets.savedmodel.emit import emit
from kexport.targets.savedmodel.package import write_vendor_files
from kexport.targets.savedmodel.target import SavedModelTarget

TARGET = SavedModelTarget()

__all__ = ["TARGET", "SavedModelTarget", "emit", "write_vendor_files"]
