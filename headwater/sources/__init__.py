"""Which samples exist, and the pixels and words each of them holds."""
