"""kexport.graphs.passes."""
