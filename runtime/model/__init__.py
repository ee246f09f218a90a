"""What a model is: card, bundle, preprocessing, figures. May import nothing but `base`."""
