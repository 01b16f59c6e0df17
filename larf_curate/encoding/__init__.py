"""Token ids become last-token states at a chosen block."""
