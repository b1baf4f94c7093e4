"""Heads: small models that turn feature arrays into predictions."""

from headwater.heads._token_head import TokenHead
from headwater.heads.attention import MIL, CoAttention, CrossAttention, MergedAttention, SelfAttention, TokenMLP
from headwater.heads.base import Fit, Head
from headwater.heads.boosting import XGBoost, XGBoostRegressor
from headwater.heads.class_texts import ClassTexts
from headwater.heads.controls import noise_like, shuffled
from headwater.heads.explain import deletion, relevance
from headwater.heads.inputs import Concatenated
from headwater.heads.linear import LinearProbe
from headwater.heads.mlp import MLP
from headwater.heads.neighbours import KNN, KNNRegressor, Prototypes
from headwater.heads.persist import HEADS, REGRESSORS, head_class, load_head, make_head, save_head
from headwater.heads.ridge import Ridge
from headwater.heads.tip_adapter import TipAdapter, TipAdapterF
from headwater.heads.tokens import Bags, Masked
from headwater.heads.transclip import TransCLIP, Transduction, TransductiveZeroShot, transduce
from headwater.heads.zero_shot import Prompts, ZeroShot, mean_prompt, read_prompts

__all__ = [
    "HEADS",
    "KNN",
    "MIL",
    "MLP",
    "REGRESSORS",
    "Bags",
    "ClassTexts",
    "CoAttention",
    "Concatenated",
    "CrossAttention",
    "Fit",
    "Head",
    "KNNRegressor",
    "LinearProbe",
    "Masked",
    "MergedAttention",
    "Prompts",
    "Prototypes",
    "Ridge",
    "SelfAttention",
    "TipAdapter",
    "TipAdapterF",
    "TokenHead",
    "TokenMLP",
    "TransCLIP",
    "Transduction",
    "TransductiveZeroShot",
    "XGBoost",
    "XGBoostRegressor",
    "ZeroShot",
    "deletion",
    "head_class",
    "load_head",
    "make_head",
    "mean_prompt",
    "noise_like",
    "read_prompts",
    "relevance",
    "save_head",
    "shuffled",
    "transduce",
]
