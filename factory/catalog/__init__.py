"""Catalogs: models, encoders, classifiers, classes, captions and the licences that are known."""
