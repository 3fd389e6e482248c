"""kexport.targets.onnx.ops."""
