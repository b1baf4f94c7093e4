"""Figures of finished runs."""

from headwater.report.figures import plot

__all__ = ["plot"]
