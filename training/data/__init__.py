"""Data sets in one form: uint8 arrays, int64 labels, class names.

They are decoded once into a memory-mapped cache that every later run shares. This folder imports
nothing of training but `config`; importing `training.data` itself loads no torch.
"""

from training.data.dataset import Dataset
from training.data.load import check_crop_of, data_names, load_dataset, load_stated

__all__ = ["Dataset", "check_crop_of", "data_names", "load_dataset", "load_stated"]
