"""Make the states of the packaged references that the package ships for the demo model at its recommended block.

Run it after the references, or how a conversation is rendered, have changed:

    python recipes/reference_states.py

A fit finds these files by the same name as those in a user's cache (larf_curate/scoring/reference_states.py), so states
of other references are not found, and the model encodes them as it does anywhere else.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from larf_curate import LARFScorer
from larf_curate.models import demo
from larf_curate.scoring import reference_states


def main() -> None:
    shipped = reference_states.directories()[-1]
    with tempfile.TemporaryDirectory() as scratch:
        reference_states.directories = lambda: [Path(scratch)]
        LARFScorer.fit(demo.NAME, demo.LAYER, dtype="float32")
        (made,) = Path(scratch).glob(f"*/block-{demo.LAYER}.safetensors")
        shutil.rmtree(shipped, ignore_errors=True)
        (shipped / made.parent.name).mkdir(parents=True)
        shutil.copyfile(made, shipped / made.parent.name / made.name)
    print(f"written: {shipped / made.parent.name / made.name}")


if __name__ == "__main__":
    main()
