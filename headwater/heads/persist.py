"""Heads on disk: ``head.json`` and ``head.safetensors``, without executable content."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np
from sklearn.base import is_regressor

from headwater._reading import read_json
from headwater._schema import Word, read_as
from headwater._shown import without_nan
from headwater._tensors import as_safetensors, read_arrays
from headwater.errors import HeadError, how_to_make, nearest
from headwater.heads._token_head import TokenHead
from headwater.heads.base import Head
from headwater.heads.transclip import TransductiveZeroShot
from headwater.heads.zero_shot import ZeroShot

FORMAT = 1
TRIED = 3
"""Number of rows that a head predicts as a test when it is loaded."""
HEADS = {
    "linear": "headwater.heads.linear:LinearProbe",
    "ordinal": "headwater.heads.ordinal:Ordinal",
    "mlp": "headwater.heads.mlp:MLP",
    "knn": "headwater.heads.neighbours:KNN",
    "prototypes": "headwater.heads.neighbours:Prototypes",
    "gda": "headwater.heads.gda:GDA",
    "tip-adapter": "headwater.heads.tip_adapter:TipAdapter",
    "tip-adapter-f": "headwater.heads.tip_adapter:TipAdapterF",
    "transclip": "headwater.heads.transclip:TransCLIP",
    "xgboost": "headwater.heads.boosting:XGBoost",
    "token-mlp": "headwater.heads.attention:TokenMLP",
    "self-attention": "headwater.heads.attention:SelfAttention",
    "merged-attention": "headwater.heads.attention:MergedAttention",
    "cross-attention": "headwater.heads.attention:CrossAttention",
    "co-attention": "headwater.heads.attention:CoAttention",
    "efficient-probing": "headwater.heads.attention:EfficientProbing",
    "mil": "headwater.heads.attention:MIL",
    "zero-shot": "headwater.heads.zero_shot:ZeroShot",
    "zero-shot-transductive": "headwater.heads.transclip:TransductiveZeroShot",
}
REGRESSORS = {
    "ridge": "headwater.heads.ridge:Ridge",
    "knn": "headwater.heads.neighbours:KNNRegressor",
    "xgboost": "headwater.heads.boosting:XGBoostRegressor",
}
"""Heads that predict numbers; a name in both tables has a classifier and a regressor."""
SURVIVAL = {"cox": "headwater.heads.cox:Cox"}
"""Heads that predict the risk of an event from right-censored times."""


def head_class(kind: str, *, regression: bool = False, survival: bool = False) -> type[Any]:
    """Return the class of heads called ``kind``, among classifiers, regressors, or heads of survival.

    Raises
    ------
    HeadError
        When it does not exist; the message suggests the nearest name.
    """
    known, others = (REGRESSORS, HEADS) if regression else (HEADS, REGRESSORS)
    if survival:
        known, others = SURVIVAL, {}
    if kind not in known:
        there = f"There are: {', '.join(known)}."
        if survival and kind in {**HEADS, **REGRESSORS}:
            raise HeadError(f"head {kind!r} does not take censored times. For --task survival t{there[1:]}")
        if kind in SURVIVAL and not survival:
            raise HeadError(f"head {kind!r} predicts survival. Pass --task survival, or t{there[1:]}")
        if kind in others and regression:
            raise HeadError(f"head {kind!r} predicts classes, not numbers. For regression t{there[1:]}")
        if kind in others:
            raise HeadError(f"head {kind!r} predicts numbers, not classes. Pass --task regression, or t{there[1:]}")
        raise HeadError(f"unknown head {kind!r}.{nearest(kind, known)} {there}")
    module, _, name = known[kind].partition(":")
    found: type[Any] = getattr(import_module(module), name)
    return found


def make_head(kind: str, params: dict[str, Any], *, regression: bool = False, survival: bool = False) -> Head:
    """Build an unfitted head.

    Raises
    ------
    HeadError
        When the head or parameter does not exist; the message lists the parameters.
    """
    cls = head_class(kind, regression=regression, survival=survival)
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
    values, arrays = head.to_state()
    if "params" in values:
        values["params"] = _without_device(values["params"])
    task = {"task": "survival"} if kind in SURVIVAL else {"task": "regression"} if is_regressor(head) else {}
    written = without_nan({"format": FORMAT, "head": kind, **task, **values})
    (folder / "head.json").write_text(json.dumps(written, indent=2, allow_nan=False) + "\n")
    (folder / "head.safetensors").write_bytes(as_safetensors(arrays))


def load_head(folder: Path) -> Any:
    """Read a head that `save_head` wrote.

    Raises
    ------
    HeadError
        When there is none, or its format is newer.
    """
    try:
        values = read_json(folder / "head.json")
        arrays = read_arrays(folder / "head.safetensors")
    except FileNotFoundError as error:
        raise HeadError(f"{folder}: no head here. {how_to_make(folder, 'headwater fit-head …')}") from error
    except (OSError, ValueError) as error:
        raise HeadError(f"{folder}: the head cannot be read ({error}).") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        written = values.get("format") if isinstance(values, dict) else "unknown"
        raise HeadError(
            f"{folder}: the head has format {written}, but this headwater reads format {FORMAT}. Upgrade headwater."
        )
    with head_errors(folder):
        task = values.get("task")
        cls = head_class(read_as(Word, values["head"]), regression=task == "regression", survival=task == "survival")
        params = read_as(dict[str, Any], values.get("params", {}))
        _require_types(cls, params)
        if "params" in values:
            values["params"] = _without_device(params)
        if "classes" in values:
            _require_classes(values["classes"])
        if values.get("objective", 0.0) is None:  # of a head that was trained together with its encoder
            values["objective"] = math.nan
        head = cls.from_state(values, arrays)
        if not isinstance(head, TokenHead):  # which would import torch
            _try(head)
    return head


@contextmanager
def head_errors(folder: Path | None) -> Iterator[None]:
    """Turn errors of a head from a file, when it is built or used, into one line that names the file.

    Raises
    ------
    HeadError
        In place of the original error.
    """
    try:
        yield
    except _WRONG as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise HeadError(
            f"{folder}: the head cannot be used ({_shortened(why)}): it was edited or damaged, or is for other "
            "features. Fit it again."
        ) from error


def _shortened(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= 300 else f"{line[:300]}…"


_WRONG = (HeadError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, NotImplementedError)
"""Errors that invalid values cause in later code."""


def _without_device(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters without the device: where a head was fitted says nothing of where it will predict."""
    return {name: value for name, value in params.items() if name != "device"}


def _require_classes(values: Any) -> None:
    classes = read_as(list[Word | bool | int | float], values)
    if len({type(name) for name in classes}) != 1 or len(set(classes)) != len(classes):
        raise HeadError("classes must be distinct names, or distinct numbers")


def _require_types(cls: type[Any], params: dict[str, Any]) -> None:
    """Refuse parameters of the wrong type; parameters of types that JSON lacks are not checked."""
    for name, kind in get_type_hints(cls.__init__).items():
        if name not in params:
            continue
        try:
            msgspec.json.schema(kind)
        except (TypeError, RuntimeError):
            continue
        try:
            read_as(kind, params[name])
        except ValueError as error:
            raise HeadError(f"{name}: {error}") from error


def _try(head: Any) -> None:
    """Let a head predict rows of zeros, so that inconsistent arrays and settings fail here."""
    X: Any
    if names := getattr(head, "inputs_", None):
        widths = [len(p) for n, p in head.params_.items() if n.startswith("in") and p.ndim == 2]
        X = {name: np.zeros((TRIED, width), np.float32) for name, width in zip(names, widths, strict=True)}
    elif isinstance(head, ZeroShot | TransductiveZeroShot):
        X = np.zeros((TRIED, np.shape(head.to_state()[1]["class_features"])[1]), np.float32)
    else:
        X = np.zeros((TRIED, head.n_features_in_), np.float32)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = head.predict(X) if is_regressor(head) else head.predict_proba(X)
    if len(found) != TRIED or (not is_regressor(head) and found.shape[1:] != (len(head.classes_),)):
        raise HeadError(f"predictions of {TRIED} rows have shape {found.shape}")
