"""kexport.runtime."""
