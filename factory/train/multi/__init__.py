"""Training of generators of parallel streams (`network.kind: multi`)."""
