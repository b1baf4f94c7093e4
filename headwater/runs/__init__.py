"""Finished fits on disk: writing them, reading them, and every line printed about them."""
