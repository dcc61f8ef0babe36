"""Training of image encoders."""
