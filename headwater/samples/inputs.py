"""What a head reads: pooled or token features, of samples or of bags of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    """Which feature sets are read, and how.

    Attributes
    ----------
    names
        Feature sets, ``NAME/MODALITY``.
    tokens
        Those of which tokens are read.
    partial
        Whether a sample may lack some of them.
    bags
        The column whose values make a bag of the samples that share them; None where each sample is a row.
    also
        Feature sets that are not read, but that a sample must have.
    views
        The column that says of which view a sample is, where each view of a bag is an input of its own.
    levels
        The views that are read, in that order; all there are, sorted, when none are named.
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
    """Say what a head reads of features that were asked for as ``NAME/MODALITY``, or ``NAME/MODALITY:pooled``.

    Raises
    ------
    InputError
        When a head wants tokens that are not stored, bags that it has no use for, or has none for missing inputs.
    """
    if missing not in get_args(Missing):
        raise InputError(f"--missing {missing}: drop or keep.{nearest(missing, get_args(Missing))}")
    names = tuple(dict.fromkeys(name.removesuffix(POOLED) for name in features))
    if len(names) < len(set(features)):
        raise InputError("--features: one feature set is named twice, pooled and not.")
    if missing == "keep" and (not head.takes_tokens or (len(names) < 2 and views is None)):
        raise InputError(
            "--missing keep is for heads over the tokens of several inputs, such as co-attention: others need all."
        )
    if missing == "keep" and also:
        raise InputError("--samples-with goes without --missing keep: it leaves out samples that lack a feature.")
    refuse_bags(kind, bags, views)
    in_bags = bags is not None and views is None
    of_pooled = not head.takes_tokens or in_bags or str(head.get_params().get("tokenizer")).startswith("pooled")
    tokens = frozenset() if of_pooled else frozenset(name for name in names if f"{name}{POOLED}" not in features)
    for name in sorted(tokens):
        spec = store.features(name).spec
        if not spec.has_tokens:
            short = name.partition("/")[0]
            bagged = " To put samples into bags, pass --bags COL." if kind == "mil" else ""
            raise InputError(
                f"--head {kind} wants tokens, and {name} holds none. Store them with: headwater embed MANIFEST "
                f"{store.location} --encoder {spec.encoder} --name {short}-tokens --tokens all. Or pass --features "
                f"{name}{POOLED} to take its pooled feature for one token.{bagged}"
            )
    others = tuple(name for name in also if name not in names)
    return Wanted(names, tokens, missing == "keep", bags, others, views)


def refuse_bags(kind: str, bags: str | None, views: str | None) -> None:
    """Refuse bags of a head that has no use for them, and views without bags."""
    if views is None and bags is not None and kind != "mil":
        raise InputError(f"--bags {bags} goes with --head mil, or with --views COL, not with {kind} alone.")
    if views is not None and bags is None:
        raise InputError(f"--views {views} goes with --bags COL: what the views are of, such as the exam.")
    if views is not None and kind == "mil":
        raise InputError(f"--head mil weighs all images of a bag: leave --views {views} out, or choose another head.")


def read_inputs(
    store: Store, what: Wanted, where: str | None, used: Sequence[str] = (), missing: MissingRule | None = None
) -> Data:
    """Read what is wanted; with bags, a row is a bag, and has of the columns ``used`` what its samples agree on.

    With views, it has an input for each of them. Missing values are null in the columns that ``missing`` is about.
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
    """Return samples with pooled features, and the row of ``data`` that each is in: of its bag, or its own.

    Where samples may lack inputs, those that have the images, or else pairs with one, or else the first input.
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
    """Return each input by name, with what samples lack of it."""
    return {
        name: Masked(X, data.present[name]) if name in data.present and not isinstance(X, RaggedArray) else X
        for name, X in data.inputs.items()
    }


def given_to(head: Any, parts: Mapping[str, Any]) -> Any:
    """Return inputs as a head takes them: one array-like, or several."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    return dict(parts) if isinstance(head, Head) and head.takes_inputs else Concatenated(list(parts.values()))


def instances_of(outcome: Outcome, X: Any, data: Data) -> pl.DataFrame | None:
    """Return what each instance weighed in its bag when that was tested; None where rows are no bags.

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
