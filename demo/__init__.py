"""The page on which people try a model. Imports `runtime`, but neither training nor export."""
