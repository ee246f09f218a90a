"""TensorRT engines of a bundle. Imports neither torch nor onnx, so that a device needs neither."""
