"""Token ids become states: the hidden state of the last token at a block."""
