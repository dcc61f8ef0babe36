"""Tests; a package, since torch-fidelity installs another one of this name."""
