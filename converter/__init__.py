"""kexport.converter."""
