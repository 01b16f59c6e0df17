"""A model's name becomes a decoder on a device."""
