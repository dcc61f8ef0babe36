"""Kinds of image encoders, one file each; models load when an encoder does, not before."""
