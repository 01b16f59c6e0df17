"""States become scores, scores become a decision."""
