"""What a bundle may hold and how it is written. Imports neither torch nor onnx."""
