"""kexport.converter.commands."""
