"""Does a score say anything about damage, and did the decision help: measured on the model itself."""
