"""A finished fit on disk: how it is written and read, and every line that is printed about it."""
