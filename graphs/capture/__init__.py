"""kexport.graphs.capture."""
