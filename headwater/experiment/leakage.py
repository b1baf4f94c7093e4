"""Whether a split leaks: what fit-head looks at before it fits, and when it refuses to."""

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
from headwater.runs.words import words_of_clue
from headwater.samples.contents import SharedContents, contents_of, kinds_of, modality_of
from headwater.store import KEY_COLUMNS, Data, Modality, SelectedRows

# What keeps the search for near duplicates to some tenths of a second: their share is estimated on a sample.
LOOKED_UP, TAIL_ROWS, WHITENED_ROWS, DIM = 1024, 1024, 512, 128

# A run is refused for near duplicates when so many of the images looked up have one in training. Chance alone gives one
# in a hundred (that is how the threshold is set, and the tail it is set by is right within some factor of three); sets
# of real images whose groups were kept whole had at most one in twenty.
CHANCE = 0.01
REFUSED_SHARE = 0.2
REFUSED_LEAST = 10
# Copies come in small numbers; an image that is like many others shows what is common in the set, such as empty glass.
MOST_COPIES = 20
SHOWN = 2

Leakage = dict[str, Any]


@dataclass(frozen=True)
class NearDuplicates:
    """Tested images, or pairs of an image and its text, that have a near duplicate in training.

    Attributes
    ----------
    features
        In which they were looked for.
    n_looked_up
        Tested contents, drawn at random where there are more than 1,024, that were compared with all others.
    n_with_copies
        Those with 1 to 20 near duplicates in training.
    n_like_many
        Those with more.
    n_by_chance
        How many would be expected to have one by chance.
    threshold
        Whitened cosine similarity above which two contents count as near duplicates; None where too few samples, or too
        few different ones, tell nothing.
    false_alarms
        The share of unrelated pairs that are above it, as estimated.
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
        """Whether there are so many that the split leaks beyond doubt."""
        least = max(REFUSED_SHARE * self.n_looked_up, REFUSED_LEAST, 10 * self.n_by_chance)
        return self.n_with_copies >= least

    @property
    def some(self) -> bool:
        """Whether there are more than chance gives, the tail being wrong by a factor of three."""
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
    """Look for what is on both sides of a split; refuse the splits when it is there.

    Refused are identical images and divided groups, of which one is enough, and near duplicates of images when many
    tested images have one in training. Identical texts are counted alone: reports are written from templates. So are
    near duplicates of pairs, which one text may make alike; an image in pairs with two texts is one image. Texts that
    state the label are refused when a name or one word tells it almost perfectly.

    Parameters
    ----------
    data
        The samples, with the features that are used.
    splits
        Of their rows.
    groups
        Their groups, of shape ``(n_samples,)``.
    group_column
        What the column of groups is called.
    allowed
        Why a leak is no matter; None to refuse it.
    shared
        Images on both sides, where more samples have one than have all of these features; see `shared_images`.
    stated
        How far texts state the label, where texts are used; see `headwater.samples.stated`.
    kinds
        Which contents are compared; those of the features that ``data`` has, when left out.
    say
        Called with a line about what is there and does not lead to a refusal.

    Returns
    -------
    dict
        The counts, for ``metrics.json``.

    Raises
    ------
    SplitError
        When the split leaks and nothing is allowed.
    InputError
        When something is allowed for no reason.
    """
    if allowed is not None and not allowed.strip():
        raise InputError("--allow-leakage needs a reason in words: it is kept in metrics.json.")
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
        say(f"{counted(n, 'identical text')} on both sides of a split: counted in metrics.json, and not refused")
    near = _near_duplicates(data, contents, sides, splits, groups)
    if near is not None:
        report["near_duplicates"] = asdict(near)
        of_images = modality_of(near.features) == "image"
        if near.many and of_images:
            leaks.append(_of_near(near))
        elif near.many or near.some:
            say(f"{_of_near(near)}. Look at them with headwater audit")
    report["allowed"] = allowed
    if leaks and allowed is None:
        raise SplitError(
            f"the split leaks: {'; '.join(leaks)}. Pass --groups COL that keeps copies together (headwater audit lists "
            "them), or --allow-leakage REASON."
        )
    if stated is not None:
        report["texts"] = asdict(stated)
        if stated.strong is not None:
            leaks.append(f"the texts state the label: {words_of_clue(stated.strong)}")
            if allowed is None:
                raise SplitError(
                    f"{leaks[-1]}. Take it out of the texts, leave them out of --features, or pass --allow-leakage "
                    "REASON, such as captions that were written from the labels."
                )
    for leak in leaks:
        say(f"allowed ({allowed}): {leak}")
    return report


def shared_images(data: Data, splits: Sequence[Split]) -> int:
    """Return how many images are on both sides of a split, among all samples that have one, whatever their features."""
    keys = data.table[KEY_COLUMNS["image"]]
    own = pl.int_range(len(keys), eager=True).cast(pl.String)
    codes = np.unique(keys.fill_null(own).to_numpy(), return_inverse=True)[1]
    return int(Sides.of(codes, splits).straddling().sum())


def _say_across(across: dict[Any, int], column: str | None, say: Callable[[str], None]) -> None:
    for modality, n in across.items():
        if n:
            say(
                f"identical {modality}s in more than one {column}: {n:,}. One {modality} can then be on both sides of "
                "a split, which flatters the numbers"
            )


def _named(data: Data, contents: SharedContents, which: NDArray[np.bool_]) -> str:
    """Name the samples of the first contents."""
    first = (data.ids[contents.samples(int(c))[:2]] for c in np.flatnonzero(which)[:SHOWN])
    return ", ".join(" and ".join(map(repr, ids.tolist())) for ids in first)


def _of_near(near: NearDuplicates) -> str:
    tested = counted(near.n_looked_up, f"tested {modality_of(near.features)}")
    of = f"{near.n_with_copies + near.n_like_many:,} of {tested}"
    many = f", {near.n_like_many:,} of them more than {MOST_COPIES}" if near.n_like_many else ""
    return f"{of} have near duplicates in training{many} ({near.n_by_chance:.1f} expected by chance)"


def _near_duplicates(
    data: Data,
    contents: dict[Modality, SharedContents],
    sides: dict[Modality, Sides],
    splits: Sequence[Split],
    groups: NDArray[Any] | None,
) -> NearDuplicates | None:
    """Look a sample of the tested images up among all others, in the first pooled features of images, else of pairs."""
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
    rng = np.random.default_rng(0)  # of its own, so that a run's seed changes no verdict
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
