"""Token ids become states: the hidden state of the last token after a block."""
