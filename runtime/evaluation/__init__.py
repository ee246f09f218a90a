"""Whether a model is right: labelled images, figures, the gate. Imports no server and no command.

It needs NumPy only, because models are judged on devices without torch and the training data.
"""
