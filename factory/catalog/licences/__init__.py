"""Licences: those that are known, and what their terms allow."""
