"""Names of the attributes that `factory.core.stains` measures from pixels."""

MEASURED = ("nuclear_density", "nuclear_size", "haematoxylin", "eosin", "tissue", "fat")
"""What `factory.core.stains` measures."""
