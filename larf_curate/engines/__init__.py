"""Where datasets are scored and split: `Dataset.map`, files on one machine, steps and row readers for datatrove."""
