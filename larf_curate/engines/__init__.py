"""Where scoring runs: `Dataset.map`, one process, datatrove steps."""
