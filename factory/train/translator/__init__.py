"""Trains translators: a flow between the embeddings of two domains."""
