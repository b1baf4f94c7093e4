"""Leak checks of a split, which fit-head runs before it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._words import counted
from headwater.errors import InputError, SplitError
from headwater.evaluate.leakage import Sides, Values
from headwater.evaluate.splits import Split
from headwater.evaluate.stated import Stated
from headwater.retrieve.duplicates import NO_ANGLE, Tail, Whitening, pairs_above
from headwater.runs.printed import words_of_clue
from headwater.samples.contents import SharedContents, contents_of, kinds_of, modality_of
from headwater.store import KEY_COLUMNS, Data, Modality, SelectedRows

# The share of near duplicates is estimated on a sample, so that the search takes some tenths of a second.
LOOKED_UP, TAIL_ROWS, WHITENED_ROWS, DIM = 1024, 1024, 512, 128

# A run is refused if at least this share of the images looked up has a near duplicate in training. By chance it is 1 %:
# the threshold is set for that, and the tail estimate behind it is right within a factor of about three. In sets of
# real images whose groups were kept whole it was at most 5 %.
CHANCE = 0.01
REFUSED_SHARE = 0.2
REFUSED_LEAST = 10
# Copies come in small numbers; an image like many others shows what is common in the set, such as empty glass.
MOST_COPIES = 20
SHOWN = 2

Leakage = dict[str, Any]


@dataclass(frozen=True)
class NearDuplicates:
    """Test images, or pairs of an image and its text, with near duplicates in training.

    Attributes
    ----------
    features
        The features compared.
    n_looked_up
        Test contents compared with all others; a random sample if there are more than 1,024.
    n_with_copies
        Those with 1 to 20 near duplicates in training.
    n_like_many
        Those with more than 20.
    n_by_chance
        Expected number with a near duplicate by chance.
    threshold
        Whitened cosine similarity above which two contents count as near duplicates; None if there are too few
        distinct samples to estimate it.
    false_alarms
        Estimated share of unrelated pairs above the threshold.
    """

    features: str
    n_looked_up: int
    n_with_copies: int
    n_like_many: int
    n_by_chance: float
    threshold: float | None
    false_alarms: float

    @property
    def many(self) -> bool:
        """Whether there are enough to refuse the split."""
        least = max(REFUSED_SHARE * self.n_looked_up, REFUSED_LEAST, 10 * self.n_by_chance)
        return self.n_with_copies >= least

    @property
    def some(self) -> bool:
        """Whether there are more than expected by chance, even if the tail estimate is off by a factor of three."""
        return self.n_with_copies + self.n_like_many > 5 * self.n_by_chance + 5


def check_leakage(
    data: Data,
    splits: Sequence[Split],
    *,
    groups: NDArray[Any] | None = None,
    group_column: str | None = None,
    allowed: str | None = None,
    shared: int = 0,
    stated: Stated | None = None,
    kinds: Sequence[Modality] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Leakage:
    """Look for content shared across train and test, and refuse splits that leak.

    One identical image or one divided group is enough to refuse. Near duplicates are refused if many test images have
    one in training. Identical texts are only counted, since reports are written from templates. Near duplicates of
    pairs are only counted too, since a shared text may make them similar. An image paired with two texts is one image.
    Texts that state the label are refused if a class name or one word predicts it almost perfectly.

    Parameters
    ----------
    data
        The samples, with the features that are used.
    splits
        Splits of their rows.
    groups
        Their groups, of shape ``(n_samples,)``.
    group_column
        Name of the column of groups.
    allowed
        Reason to accept a leak; None to refuse it.
    shared
        Images on both sides, counted over all samples with an image, also those without these features; see
        `shared_images`.
    stated
        How far texts state the label, if texts are used; see `headwater.samples.stated`.
    kinds
        Modalities to compare. Default: those of the features in ``data``.
    say
        Called with a line about each finding that is not refused.

    Returns
    -------
    dict
        The counts, for ``metrics.json``.

    Raises
    ------
    SplitError
        When the split leaks and no reason to accept it was given.
    InputError
        When the reason is empty.
    """
    require_reason(allowed)
    contents = {part: contents_of(data, part) for part in (kinds_of(data.inputs) if kinds is None else kinds)}
    sides = {modality: Sides.of(found.of_sample, splits) for modality, found in contents.items()}
    both = {modality: found.straddling() for modality, found in sides.items()}
    report: Leakage = {"identical_across_splits": {modality: int(mask.sum()) for modality, mask in both.items()}}
    leaks = []
    if "image" in both and both["image"].any():
        n = counted(int(both["image"].sum()), "identical image")
        leaks.append(f"{n} on both sides ({_named(data, contents['image'], both['image'])})")
    elif shared:
        leaks.append(f"{counted(shared, 'identical image')} on both sides")
    if shared:
        report["identical_across_splits"]["image"] = max(shared, report["identical_across_splits"].get("image", 0))
    if groups is not None:
        across = {m: int(Values.of(found.of_sample, groups).differ().sum()) for m, found in contents.items()}
        report["identical_across_groups"] = across
        there, codes = np.unique(groups, return_inverse=True)
        divided = Sides.of(codes, splits).straddling()
        report["groups_across_splits"] = int(divided.sum())
        if divided.any():
            n = counted(int(divided.sum()), "group")
            leaks.append(f"it divides {n} of {group_column}, such as {str(there[divided][0])!r}")
        _say_across(across, group_column, say)
    elif n := report["identical_across_splits"].get("text"):
        say(f"{counted(n, 'identical text')} on both sides of a split: counted in metrics.json, not refused")
    near = _near_duplicates(data, contents, sides, splits, groups)
    if near is not None:
        report["near_duplicates"] = asdict(near)
        of_images = modality_of(near.features) == "image"
        if near.many and of_images:
            leaks.append(_of_near(near))
        elif near.many or near.some:
            say(f"{_of_near(near)}. headwater audit lists them")
    report["allowed"] = allowed
    if leaks and allowed is None:
        raise SplitError(
            f"the split leaks: {'; '.join(leaks)}. {_advice(group_column, report)}, or pass --allow-leakage REASON."
        )
    if stated is not None:
        report["texts"] = asdict(stated)
        if stated.strong is not None:
            leaks.append(f"the texts state the label: {words_of_clue(stated.strong)}")
            if allowed is None:
                raise SplitError(
                    f"{leaks[-1]}. Remove it from the texts, leave the texts out of --features, or pass "
                    "--allow-leakage REASON, such as 'captions were written from the labels'."
                )
    for leak in leaks:
        say(f"allowed ({allowed}): {leak}")
    return report


def require_reason(allowed: str | None) -> None:
    """Raise `InputError` unless the reason to accept a leak, if there is one, is in words."""
    if allowed is not None and not (isinstance(allowed, str) and allowed.strip()):
        raise InputError("--allow-leakage needs a reason in words, which metrics.json records.")


def _advice(group_column: str | None, report: Leakage) -> str:
    """Say how a split is mended: one that divides groups by the split itself, another by groups that keep copies."""
    if report.get("groups_across_splits"):
        return f"Correct the column of --split so that each {group_column} is on one side"
    return "Pass --groups COL that keeps copies together (headwater audit lists them)"


def shared_images(data: Data, splits: Sequence[Split]) -> int:
    """Return how many images are on both sides of a split, among all samples with an image."""
    keys = data.table[KEY_COLUMNS["image"]]
    own = pl.int_range(len(keys), eager=True).cast(pl.String)
    codes = np.unique(keys.fill_null(own).to_numpy(), return_inverse=True)[1]
    return int(Sides.of(codes, splits).straddling().sum())


def _say_across(across: dict[Any, int], column: str | None, say: Callable[[str], None]) -> None:
    for modality, n in across.items():
        if n:
            say(
                f"identical {modality}s in more than one {column}: {n:,}. The same {modality} can then be on both "
                "sides of a split, which inflates the results"
            )


def _named(data: Data, contents: SharedContents, which: NDArray[np.bool_]) -> str:
    """Name the samples of the first contents."""
    first = (data.ids[contents.samples(int(c))[:2]] for c in np.flatnonzero(which)[:SHOWN])
    return ", ".join(" and ".join(map(repr, ids.tolist())) for ids in first)


def _of_near(near: NearDuplicates) -> str:
    tested = counted(near.n_looked_up, f"test {modality_of(near.features)}")
    of = f"{near.n_with_copies + near.n_like_many:,} of {tested}"
    many = f", {near.n_like_many:,} of them more than {MOST_COPIES} each" if near.n_like_many else ""
    return f"{of} have near duplicates in training{many} ({near.n_by_chance:.1f} expected by chance)"


def _near_duplicates(
    data: Data,
    contents: dict[Modality, SharedContents],
    sides: dict[Modality, Sides],
    splits: Sequence[Split],
    groups: NDArray[Any] | None,
) -> NearDuplicates | None:
    """Compare a sample of test images with all others, in the first pooled image features, or else pair features."""
    pooled = [n for n, X in data.inputs.items() if modality_of(n) != "text" and len(getattr(X, "shape", ())) == 2]
    if not pooled:
        return None
    name = min(pooled, key=lambda n: modality_of(n) != "image")
    X, of = data.inputs[name], modality_of(name)
    where = contents.get(of) or contents_of(data, of)
    side = sides.get(of) or Sides.of(where.of_sample, splits)
    assert isinstance(X, SelectedRows)
    n = len(where.first)
    distinct = X.select(where.first)
    rng = np.random.default_rng(0)  # fixed, so that the verdict does not depend on the run's seed
    order = rng.permutation(n)
    tested = order[side.test[order].any(1)][:LOOKED_UP]
    unknown = NearDuplicates(name, len(tested), 0, 0, CHANCE * len(tested), None, CHANCE / n)
    fitted = distinct[np.sort(order[:WHITENED_ROWS])]
    if np.isfinite(fitted).all(1).sum() < 2:
        return unknown
    units = Whitening.fit(fitted, DIM).transform(distinct)
    some = order[:TAIL_ROWS]
    tail = Tail.fit(units[some], groups=None if groups is None else groups[where.first[some]], n_rows=n)
    threshold = None if tail is None else tail.threshold(CHANCE / n)
    if threshold is None or not 0 < threshold < NO_ANGLE:
        return unknown
    copies = np.zeros(n, np.int64)
    for i, j, _ in pairs_above(units, threshold, queries=tested):
        copies += np.bincount(i[side.leaks(i, j)], minlength=n)
    n_like_many = int((copies > MOST_COPIES).sum())
    n_with = int((copies > 0).sum()) - n_like_many
    return NearDuplicates(name, len(tested), n_with, n_like_many, CHANCE * len(tested), threshold, CHANCE / n)
