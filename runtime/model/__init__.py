"""What a model is: card, bundle, preprocessing, figures. May import only `images` and `base`."""
