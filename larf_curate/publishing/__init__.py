"""A decision becomes a report, plots, a card, a page and a commit on the Hub."""
