"""From a student to ONNX files. Imports no engine and no command."""
