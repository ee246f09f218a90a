"""From a student to ONNX graphs. Imports of this project only `bundles` and `runtime`."""
