"""Experiments, from their options to a run: choose, fit and evaluate."""
