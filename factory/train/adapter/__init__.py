"""Training of adapters: a few weights more for a generator that is there."""
