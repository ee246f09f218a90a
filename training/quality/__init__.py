"""Whether images repeat each other, or show nothing: over arrays alone.

It imports nothing else of training, and no torch.
"""
