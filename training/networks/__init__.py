"""The students and what they start from and cost. Imports of training only `config`."""
