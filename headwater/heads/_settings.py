"""Validation of a head's settings, with errors that give the name, the allowed values and the value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, TypeVar, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.errors import HeadError, nearest
from headwater.heads._objective import ClassWeight

Init = TypeVar("Init", bound=Callable[..., Any])


def require_above_0(head: Any, *names: str) -> None:
    """Refuse settings that are not above 0."""
    for name in names:
        if not getattr(head, name) > 0:
            raise HeadError(f"{name} must be above 0, but is {getattr(head, name)!r}.")


def require_at_least_0(head: Any, *names: str) -> None:
    """Refuse settings below 0."""
    for name in names:
        if not getattr(head, name) >= 0:
            raise HeadError(f"{name} must be at least 0, but is {getattr(head, name)!r}.")


def require_share(head: Any, *names: str) -> None:
    """Refuse settings that are not a share, from 0 to below 1."""
    for name in names:
        if not 0 <= getattr(head, name) < 1:
            raise HeadError(f"{name} must be a share, from 0 to below 1, but is {getattr(head, name)!r}.")


def require_one_of(head: Any, **kinds: Any) -> None:
    """Refuse settings that are not among the values of their ``Literal``."""
    for name, kind in kinds.items():
        value, allowed = getattr(head, name), get_args(kind)
        if value not in allowed:
            raise HeadError(f"{name} {value!r}.{nearest(str(value), allowed)} There are: {', '.join(allowed)}.")


def require_training(head: Any) -> None:
    """Refuse invalid training settings, which all networks share."""
    require_above_0(head, "lr", "epochs", "batch_size")
    require_at_least_0(head, "weight_decay", "warmup", "gamma")
    require_share(head, "dropout", "label_smoothing", "stop_share")
    if head.patience is not None and not head.patience > 0:
        raise HeadError(f"patience must be above 0, or null for all epochs, but is {head.patience!r}.")
    if head.warmup >= head.epochs:
        raise HeadError(f"warmup ({head.warmup}) must be below epochs ({head.epochs}).")
    require_class_weight(head)
    if isinstance(head.hidden, str) or not all(isinstance(h, int | np.integer) and h > 0 for h in head.hidden):
        raise HeadError(f"hidden must be a list of numbers of units, such as [512, 512], but is {head.hidden!r}.")


def require_class_weight(head: Any) -> None:
    """Refuse class weights that are not numbers, or below 0."""
    given = head.class_weight
    if not isinstance(given, dict) and given not in (None, "balanced"):
        raise HeadError(f"class_weight must be balanced, null, or a weight for each class, but is {given!r}.")
    if isinstance(given, dict) and not all(isinstance(w, int | float) and w >= 0 for w in given.values()):
        raise HeadError(f"class_weight must hold numbers of at least 0, but is {given!r}.")


def plain_class_weight(given: ClassWeight) -> dict[str, float] | str | None:
    """Return class weights as plain JSON values, by class name."""
    return {str(name): float(weight) for name, weight in given.items()} if isinstance(given, Mapping) else given


def weights_of_rows(sample_weight: ArrayLike, n: int) -> NDArray[np.float64]:
    """Validate the weights of ``n`` rows, and return them as an array."""
    weights = np.asarray(sample_weight, np.float64)
    if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise HeadError(f"sample_weight must be {n} numbers of at least 0, one per row.")
    if not weights.any():
        raise HeadError("sample_weight is zero for all rows, so none is left to fit on.")
    return weights


def with_defaults(constructor: Init, **defaults: Any) -> Init:
    """Return a copy of a constructor with other defaults and the same parameters, for a preset of a head.

    Examples
    --------
    >>> def init(self, *, width=128, pool="max"): return width, pool
    >>> with_defaults(init, pool="mean")(None)
    (128, 'mean')
    """
    init = cast("FunctionType", constructor)
    if unknown := set(defaults) - set(init.__kwdefaults__ or ()):
        raise TypeError(f"no such keyword parameters: {', '.join(sorted(unknown))}")
    copy = FunctionType(init.__code__, init.__globals__, init.__name__, init.__defaults__, init.__closure__)
    copy.__kwdefaults__ = {**(init.__kwdefaults__ or {}), **defaults}
    copy.__annotations__, copy.__module__, copy.__qualname__ = init.__annotations__, init.__module__, init.__qualname__
    return cast("Init", copy)
