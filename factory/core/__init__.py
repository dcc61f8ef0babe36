"""What all packages stand on: errors, hashes, files, images, statistics and YAML."""
