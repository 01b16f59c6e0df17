"""How few rows show nothing; it loads no numpy, so that the command line can say it."""

LEAST_ROWS = 30
"""Fewer rows than this show nothing: the interval of a rank correlation is then wider than 0.7."""
LEAST_ROWS_OF_ARM = 4
"""What a model is trained on at least."""
