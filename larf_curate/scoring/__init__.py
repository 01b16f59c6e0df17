"""States become scores."""
