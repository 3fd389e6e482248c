"""kexport.targets.onnx."""
