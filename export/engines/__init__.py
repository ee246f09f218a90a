"""TensorRT engines. Needs neither torch nor onnx: a bundle, and one of the TensorRT packages."""
