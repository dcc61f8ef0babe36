"""Checks of a recipe against what it names: catalogs, files, models, filters."""
