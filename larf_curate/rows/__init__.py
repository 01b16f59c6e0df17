"""A row becomes chat messages, and messages become token ids."""
