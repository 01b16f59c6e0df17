"""Scores become kept, removed and unscorable rows."""
