"""Recipes: what a person declares, checked before anything is loaded."""
