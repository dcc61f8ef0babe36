"""Storage: the run folder with its markers, the row schemas, parquet files and WebDataset tars."""
