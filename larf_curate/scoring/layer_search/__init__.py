"""Which block of a model carries safety."""
