"""Models: encoders, classifiers and generators, each with its settings."""
