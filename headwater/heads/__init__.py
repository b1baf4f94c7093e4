"""Heads: arrays in, predictions out."""
