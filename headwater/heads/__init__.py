"""Heads: arrays in, predictions out."""

from headwater.heads.base import Fit, Head
from headwater.heads.linear import LinearProbe

__all__ = ["Fit", "Head", "LinearProbe"]
