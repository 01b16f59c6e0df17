"""Ways to score a dataset: `Dataset.map`, from file to file, datatrove. Scored files are split here too."""
