"""Inputs of a head: pooled or token features, of samples or of bags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.errors import InputError, nearest
from headwater.evaluate import Outcome
from headwater.heads import MIL, Bags, Concatenated, Head, Masked
from headwater.samples.bags import bagged, names_of, those_in
from headwater.samples.missing import MissingRule
from headwater.samples.views import viewed
from headwater.store import Data, RaggedArray, Store

Missing = Literal["drop", "keep"]
POOLED = ":pooled"


@dataclass(frozen=True)
class Wanted:
    """The feature sets to read, and how.

    Attributes
    ----------
    names
        Feature sets, ``NAME/MODALITY``.
    tokens
        Those whose tokens are read.
    partial
        Whether a sample may lack some of them.
    bags
        The column whose values define bags; None if each sample is a row.
    also
        Feature sets that are not read, but that a sample must have.
    views
        The column with each sample's view, if each view of a case is a separate input.
    levels
        The views to read, in that order. Default: all views, sorted.
    """

    names: tuple[str, ...]
    tokens: frozenset[str]
    partial: bool
    bags: str | None
    also: tuple[str, ...] = ()
    views: str | None = None
    levels: tuple[str, ...] = ()


def wanted(
    store: Store,
    features: Sequence[str],
    kind: str,
    head: Head,
    *,
    missing: Missing = "drop",
    bags: str | None = None,
    also: Sequence[str] = (),
    views: str | None = None,
) -> Wanted:
    """Return what a head reads from features given as ``NAME/MODALITY`` or ``NAME/MODALITY:pooled``.

    Raises
    ------
    InputError
        When tokens are not stored, or the head does not take bags or missing inputs.
    """
    if missing not in get_args(Missing):
        raise InputError(f"--missing {missing}: must be drop or keep.{nearest(missing, get_args(Missing))}")
    names = tuple(dict.fromkeys(name.removesuffix(POOLED) for name in features))
    if len(names) < len(set(features)):
        raise InputError("--features names a feature set twice, with and without :pooled. Name it once.")
    if missing == "keep" and (not head.takes_tokens or (len(names) < 2 and views is None)):
        raise InputError(
            "--missing keep goes with heads over the tokens of several inputs, such as co-attention: other heads need "
            "all inputs."
        )
    if missing == "keep" and also:
        raise InputError("--samples-with goes without --missing keep, since it leaves out samples that lack a feature.")
    refuse_bags(kind, bags, views)
    in_bags = bags is not None and views is None
    of_pooled = not head.takes_tokens or in_bags or str(head.get_params().get("tokenizer")).startswith("pooled")
    tokens = frozenset() if of_pooled else frozenset(name for name in names if f"{name}{POOLED}" not in features)
    for name in sorted(tokens):
        spec = store.features(name).spec
        if not spec.has_tokens:
            short = name.partition("/")[0]
            bagged = " To form bags of samples, pass --bags COL." if kind == "mil" else ""
            raise InputError(
                f"--head {kind} needs tokens, but {name} holds none. Store them with: headwater embed MANIFEST "
                f"{store.location} --encoder {quote(spec.encoder)} --name {short}-tokens --tokens all. Or pass "
                f"--features {name}{POOLED} to use its pooled feature as one token.{bagged}"
            )
    others = tuple(name for name in also if name not in names)
    return Wanted(names, tokens, missing == "keep", bags, others, views)


def refuse_bags(kind: str, bags: str | None, views: str | None) -> None:
    """Refuse bags for a head that does not take them, and views without bags."""
    if views is None and bags is not None and kind != "mil":
        raise InputError(f"--bags {bags} goes with --head mil or with --views COL, but the head is {kind}.")
    if views is not None and bags is None:
        raise InputError(f"--views {views} goes with --bags COL, the column that defines a case, such as the exam.")
    if views is not None and kind == "mil":
        raise InputError(f"--head mil goes without --views {views}: leave it out, or choose another head.")


def read_inputs(
    store: Store, what: Wanted, where: str | None, used: Sequence[str] = (), missing: MissingRule | None = None
) -> Data:
    """Read features. With bags, a row is a bag, with the values of the columns ``used`` that its samples share.

    With views, there is an input for each view. The rule ``missing`` makes missing values null in its columns.
    """
    data = store.read(*what.names, *what.also, where=where, tokens=what.tokens, partial=what.partial)
    if missing is not None:
        data = missing.applied(data)
    if what.also:
        data = replace(data, inputs={name: data.inputs[name] for name in what.names})
    if what.bags is None:
        return data
    if what.views is None:
        return bagged(data, what.bags, used)
    return viewed(data, what.bags, what.views, used, partial=what.partial, wanted=what.levels)


def samples_behind(store: Store, what: Wanted, where: str | None, data: Data) -> tuple[Data, NDArray[np.int64]]:
    """Return samples with pooled features, and the row of ``data`` that each belongs to: its bag, or itself.

    If samples may lack inputs, return those with images, or else with pair features, or else with the first input.
    """
    if not what.tokens and not what.partial and what.bags is None:
        return data, np.arange(len(data.ids))
    names: Sequence[str] = what.names
    if what.partial:
        images, pairs = ([name for name in what.names if name.endswith(end)] for end in ("/image", "/pair"))
        names = images or pairs or what.names[:1]
    samples = store.read(*names, where=where)
    of = samples.ids if what.bags is None else names_of(samples, what.bags)
    return those_in(samples, of, data.ids)


def parts_of(data: Data) -> dict[str, Any]:
    """Return each input by name, masked where samples lack it."""
    return {
        name: Masked(X, data.present[name]) if name in data.present and not isinstance(X, RaggedArray) else X
        for name, X in data.inputs.items()
    }


def given_to(head: Any, parts: Mapping[str, Any]) -> Any:
    """Return inputs in the form a head takes: one array-like, or several."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    return dict(parts) if isinstance(head, Head) and head.takes_inputs else Concatenated(list(parts.values()))


def instances_of(outcome: Outcome, X: Any, data: Data) -> pl.DataFrame | None:
    """Return each instance's weight in its test bag; None if rows are not bags.

    Columns ``id`` (of the instance), ``bag``, ``fold`` and ``weight``.
    """
    bags = next(iter(X.values())) if isinstance(X, Mapping) else X
    if not isinstance(bags, Bags):
        return None
    parts = []
    for fold in outcome.folds:
        if not isinstance(fold.head, MIL):
            return None
        test = fold.split.test
        weights = fold.head.instance_weights(X, test)
        members = [bags.members[row] for row in test.tolist()]
        lengths = [len(rows) for rows in members]
        parts.append(
            pl.DataFrame(
                {
                    "id": bags.ids[np.concatenate(members)],
                    "bag": np.repeat(data.ids[test], lengths),
                    "fold": np.full(sum(lengths), fold.split.fold),
                    "weight": weights[~np.isnan(weights)],
                }
            )
        )
    return pl.concat(parts)
