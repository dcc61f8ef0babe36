"""Whether synthetic images copy real ones."""
