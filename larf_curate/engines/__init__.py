"""Where scoring runs: `Dataset.map`, and files on one machine."""
