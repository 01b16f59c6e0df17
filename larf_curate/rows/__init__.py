"""A dataset row becomes messages, messages become token ids."""
