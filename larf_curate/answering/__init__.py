"""A prompt becomes an answer, and an answer a verdict."""
