"""From labelled images to a trained student: data, objective, training engine."""
