"""A report of finished runs as one HTML file that needs no other."""
