"""Figures of finished runs."""

from headwater.report.figures import plot
from headwater.report.systems import plot_systems

__all__ = ["plot", "plot_systems"]
