"""Encoders, and the run that fills a store."""
