"""What a bundle may hold and how it is written. Imports neither torch, onnx nor other rooms."""
