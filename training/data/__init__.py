"""Data sets in one form: uint8 arrays, int64 labels, class names.

Decoded once into a memory-mapped cache that every later run shares. Importing this package
imports neither torch nor a decoder.
"""

from training.data.dataset import Dataset
from training.data.load import data_names, load_dataset

__all__ = ["Dataset", "data_names", "load_dataset"]
