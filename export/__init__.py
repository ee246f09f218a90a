"""From a checkpoint to verified ONNX files and TensorRT engines. Does not import `demo`."""
