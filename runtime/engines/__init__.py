"""kexport.runtime.engines."""
