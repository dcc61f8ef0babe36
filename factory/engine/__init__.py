"""The engine: plans a recipe, fills its shards on workers, commits and finalises them."""
