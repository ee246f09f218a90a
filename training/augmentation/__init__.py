"""Random changes of whole batches, on the device. Imports no other folder of training."""
