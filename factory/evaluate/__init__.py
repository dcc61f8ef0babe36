"""Measures what a data set is worth: fidelity, copies, few-shot use, retrieval."""

DEFAULT_ENCODER = "he-ssl-eval"
"""Compares images unless `--encoder` names another: learned without labels, and no filter's own."""
