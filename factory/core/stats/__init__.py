"""Statistics: intervals and resampling."""
