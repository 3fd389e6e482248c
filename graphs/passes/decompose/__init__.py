"""kexport.graphs.passes.decompose."""
