"""Training of classifiers on images with classes."""
