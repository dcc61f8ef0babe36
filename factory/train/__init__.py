"""Training: a generator from scratch, a classifier to filter with."""
