"""The repository format of Triton Inference Server. Imports neither torch nor onnx."""
