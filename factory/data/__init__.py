"""Data sets: images that are there, pairs, records, row schemas and writers."""
