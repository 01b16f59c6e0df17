"""One recipe, many tasks, resumed after a crash."""
