"""What tests share: tiny models, made runs, a Hub on loopback."""
