"""Captions: grids of them, files of them, and sentences written from measured attributes."""
