"""Splits, metrics and the protocol: arrays in, numbers out."""
