"""`python -m larf_curate` is `larf-curate`."""

from .cli import main

main()
