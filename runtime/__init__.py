"""Torch-free inference: images in, labels out."""
