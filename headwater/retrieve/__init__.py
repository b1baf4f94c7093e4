"""Nearest neighbours over arrays."""
