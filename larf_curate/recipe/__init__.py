"""One YAML file: what to score, how, what to remove, and where it goes."""
