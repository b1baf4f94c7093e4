"""Heads: small models that turn feature arrays into predictions.

Their parameter ``device`` says where they are computed: on the CPU, on a GPU (``cuda``), or ``auto``. Under ``auto``,
linear, ridge and Gaussian heads, neighbours, prototypes and boosted trees take a GPU if there is one and the work is
worthwhile: at least 10¹² floating-point operations, below which starting CUDA takes longer than the CPU. Heads trained
by gradient descent (MLP, token heads, Tip-Adapter-F) always take a GPU where one is there. The other heads are computed
on the CPU. Features that do not fit into a GPU's memory are streamed through it. If its memory is too small all the
same, the CPU takes over under ``auto``, with a warning; a GPU that was requested ends the fit with `DeviceMemory`.
"""

from headwater.heads._token_head import TokenHead
from headwater.heads.attention import (
    MIL,
    CoAttention,
    CrossAttention,
    EfficientProbing,
    MergedAttention,
    SelfAttention,
    TokenMLP,
)
from headwater.heads.base import Fit, Head
from headwater.heads.boosting import XGBoost, XGBoostRegressor
from headwater.heads.class_texts import ClassTexts
from headwater.heads.controls import noise_like, shuffled
from headwater.heads.cox import Cox
from headwater.heads.explain import deletion, relevance
from headwater.heads.gda import GDA
from headwater.heads.inputs import Concatenated
from headwater.heads.linear import LinearProbe
from headwater.heads.mlp import MLP
from headwater.heads.neighbours import KNN, KNNRegressor, Prototypes
from headwater.heads.ordinal import Ordinal
from headwater.heads.persist import HEADS, REGRESSORS, SURVIVAL, head_class, load_head, make_head, save_head
from headwater.heads.ridge import Ridge
from headwater.heads.tip_adapter import TipAdapter, TipAdapterF
from headwater.heads.tokens import Bags, Masked
from headwater.heads.transclip import TransCLIP, Transduction, TransductiveZeroShot, transduce
from headwater.heads.zero_shot import Prompts, ZeroShot, mean_prompt, read_prompts

__all__ = [
    "GDA",
    "HEADS",
    "KNN",
    "MIL",
    "MLP",
    "REGRESSORS",
    "SURVIVAL",
    "Bags",
    "ClassTexts",
    "CoAttention",
    "Concatenated",
    "Cox",
    "CrossAttention",
    "EfficientProbing",
    "Fit",
    "Head",
    "KNNRegressor",
    "LinearProbe",
    "Masked",
    "MergedAttention",
    "Ordinal",
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
