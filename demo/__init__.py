"""The page: classify, compare and explain on a bundle."""
