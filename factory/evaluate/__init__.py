"""Measures what a data set is worth: fidelity, copies, few-shot use, retrieval."""
