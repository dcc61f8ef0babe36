"""YAML with positions: reading, models and messages that name the line."""
