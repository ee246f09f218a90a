"""The repository format of Triton Inference Server. Imports neither torch, onnx nor other rooms."""
