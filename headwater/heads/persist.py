"""Heads on disk: ``head.json`` and ``head.safetensors``, nothing that runs when it is read."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import is_regressor

from headwater._reading import open_regular, read_json
from headwater.errors import HeadError, nearest
from headwater.heads.base import Head

FORMAT = 1
HEADS = {
    "linear": "headwater.heads.linear:LinearProbe",
    "mlp": "headwater.heads.mlp:MLP",
    "knn": "headwater.heads.neighbours:KNN",
    "prototypes": "headwater.heads.neighbours:Prototypes",
    "tip-adapter": "headwater.heads.tip_adapter:TipAdapter",
    "tip-adapter-f": "headwater.heads.tip_adapter:TipAdapterF",
    "transclip": "headwater.heads.transclip:TransCLIP",
    "xgboost": "headwater.heads.boosting:XGBoost",
    "token-mlp": "headwater.heads.attention:TokenMLP",
    "self-attention": "headwater.heads.attention:SelfAttention",
    "merged-attention": "headwater.heads.attention:MergedAttention",
    "cross-attention": "headwater.heads.attention:CrossAttention",
    "co-attention": "headwater.heads.attention:CoAttention",
    "mil": "headwater.heads.attention:MIL",
    "zero-shot": "headwater.heads.zero_shot:ZeroShot",
    "zero-shot-transductive": "headwater.heads.transclip:TransductiveZeroShot",
}
REGRESSORS = {
    "ridge": "headwater.heads.ridge:Ridge",
    "knn": "headwater.heads.neighbours:KNNRegressor",
    "xgboost": "headwater.heads.boosting:XGBoostRegressor",
}
"""Heads that predict numbers; a name that is in both has a head for either."""


def head_class(kind: str, *, regression: bool = False) -> type[Any]:
    """Return the class of heads called ``kind``, of those that predict classes or of those that predict numbers.

    Raises
    ------
    HeadError
        When there is none; the message suggests the nearest name.
    """
    known, others = (REGRESSORS, HEADS) if regression else (HEADS, REGRESSORS)
    if kind not in known:
        there = f"There are: {', '.join(known)}."
        if kind in others and regression:
            raise HeadError(f"head {kind!r} predicts classes, not numbers. For regression t{there[1:]}")
        if kind in others:
            raise HeadError(f"head {kind!r} predicts numbers, not classes. Pass --task regression, or t{there[1:]}")
        raise HeadError(f"unknown head {kind!r}.{nearest(kind, known)} {there}")
    module, _, name = known[kind].partition(":")
    found: type[Any] = getattr(import_module(module), name)
    return found


def make_head(kind: str, params: dict[str, Any], *, regression: bool = False) -> Head:
    """Build an unfitted head.

    Raises
    ------
    HeadError
        When there is no such head or parameter; the message lists the parameters.
    """
    cls = head_class(kind, regression=regression)
    known = cls._get_param_names()
    for name in params:
        if name not in known:
            raise HeadError(
                f"head {kind!r} has no parameter {name!r}.{nearest(name, known)} It has: {', '.join(known)}."
            )
    head: Head = cls(**params)
    return head


def save_head(head: Any, kind: str, folder: Path) -> None:
    """Write a fitted head into ``folder``."""
    from safetensors.numpy import save

    values, arrays = head.to_state()
    task = {"task": "regression"} if is_regressor(head) else {}
    (folder / "head.json").write_text(json.dumps({"format": FORMAT, "head": kind, **task, **values}, indent=2) + "\n")
    # safetensors writes memory as it lies, whatever the strides
    (folder / "head.safetensors").write_bytes(save({name: np.ascontiguousarray(a) for name, a in arrays.items()}))


def load_head(folder: Path) -> Any:
    """Read a head that `save_head` wrote.

    Raises
    ------
    HeadError
        When there is none, or one of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        values = read_json(folder / "head.json")
        open_regular(folder / "head.safetensors").close()
        arrays = load_file(folder / "head.safetensors")
    except FileNotFoundError as error:
        raise HeadError(f"{folder}: no head here. Run: headwater fit-head … --out {folder}") from error
    except (OSError, ValueError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise HeadError(f"{folder}: the head cannot be read ({why}).") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        written = values.get("format") if isinstance(values, dict) else "unknown"
        raise HeadError(
            f"{folder}: a head of format {written}, this headwater reads format {FORMAT}. Upgrade headwater."
        )
    try:
        regression = values.get("task") == "regression"
        return head_class(values["head"], regression=regression).from_state(values, arrays)
    except HeadError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise HeadError(f"{folder}: the head is incomplete ({error}). Fit it again.") from error
