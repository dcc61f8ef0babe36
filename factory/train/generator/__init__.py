"""Training of generators from scratch."""
