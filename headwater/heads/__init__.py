"""Heads: arrays in, predictions out."""

from headwater.heads.base import Fit, Head
from headwater.heads.boosting import XGBoost
from headwater.heads.inputs import Concatenated
from headwater.heads.linear import LinearProbe
from headwater.heads.mlp import MLP
from headwater.heads.neighbours import KNN, Prototypes
from headwater.heads.persist import HEADS, load_head, make_head, save_head
from headwater.heads.zero_shot import Prompts, ZeroShot, mean_prompt, read_prompts

__all__ = [
    "HEADS",
    "KNN",
    "MLP",
    "Concatenated",
    "Fit",
    "Head",
    "LinearProbe",
    "Prompts",
    "Prototypes",
    "XGBoost",
    "ZeroShot",
    "load_head",
    "make_head",
    "mean_prompt",
    "read_prompts",
    "save_head",
]
