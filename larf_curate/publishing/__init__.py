"""A decision becomes a report, plots, a score card, a page to look through, and one commit on the Hub."""
