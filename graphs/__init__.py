"""kexport.graphs."""
