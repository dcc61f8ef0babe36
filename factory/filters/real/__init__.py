"""What filters that compare with real images share: the set, its classes and neighbours."""
