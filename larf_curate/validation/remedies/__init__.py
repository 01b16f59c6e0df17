"""Other remedies than filtering, each after its paper, to be compared with it."""
