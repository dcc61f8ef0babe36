"""Classifiers of images: folders with a calibrated head on an encoder, which filter and guide."""
