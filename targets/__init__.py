"""kexport.targets."""
