"""factory: declarative, reproducible synthetic datasets for computational pathology."""

__version__ = "0.1.0"
