"""Adapters from files: what `save_lora_weights` wrote, fitted to a model as `load_lora_weights` would. See docs/lora.md."""

from kexport.converter.lora.files import LoraFile, adapter_name, read_lora_file
from kexport.converter.lora.fitting import applied, fit

__all__ = ["LoraFile", "adapter_name", "applied", "fit", "read_lora_file"]
