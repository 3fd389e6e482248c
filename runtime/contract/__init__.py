"""kexport.runtime.contract."""
