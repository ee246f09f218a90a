"""Other self-distillation methods, trained by the same loop with the same recipe.

The recipe's key `peer` chooses one; `training/study.py --terms` takes their names. Label smoothing
and deep supervision are no modules here: they are the recipe's `label_smoothing` and DRG with
`drg_weight: 0` (`ls` and `ds` in a study).
"""
