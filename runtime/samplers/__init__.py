"""kexport.runtime.samplers."""
