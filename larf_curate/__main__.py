"""`python -m larf_curate` is `larf-curate`."""

from .cli import main

if __name__ == "__main__":
    main()
