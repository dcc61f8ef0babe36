"""Writers of final files: parquet and WebDataset tars."""
