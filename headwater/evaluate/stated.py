"""Texts that state the label: a class name, or one word, that predicts the class almost perfectly.

A report that ends in "conclusion: malignant" makes any head on texts look perfect. Words are chosen on training rows,
and evaluated on test rows of the same split.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate.splits import Split

STRONG = 0.95
MOST_ROWS = 5_000  # a larger set is sampled
LEAST_TEXTS = 3  # least number of texts with a word
CERTAIN = 0.001  # largest p of a word that is strong evidence, divided by the number of classes
MOST_BY_CHANCE = 0.75  # largest share of texts that may contain the number of another row
CERTAIN_NAME = 0.01  # largest p of a name, which needs no correction for search
LEAST_STEM = 4

_NO_BLANKS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts without blanks between words
_LETTER = rf"[^\W_{_NO_BLANKS}]"
_WORD = re.compile(rf"[{_NO_BLANKS}]|{_LETTER}+")
_NUMBER = re.compile(r"(?<![\w.,-])-?\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Clue:
    """A part of texts that predicts a class.

    Attributes
    ----------
    kind
        ``"name"``, the class name with any ending; ``"word"``, a word or two consecutive words; ``"number"``, the
        number to predict.
    words
        The name, or the word chosen in most folds.
    absent
        Whether the absence of the word predicts the class.
    label
        The class or label that it predicts; the output of a regression.
    auc
        AUC of its presence alone, on all test rows; for a number, the share of rows whose text contains it.
    strong
        Whether the AUC is at least 0.95 and not by chance.
    """

    kind: Literal["name", "word", "number"]
    words: str
    absent: bool
    label: str
    auc: float
    strong: bool


@dataclass(frozen=True)
class Stated:
    """How far texts state the label.

    Attributes
    ----------
    name, word, number
        The best clue of each kind; None if there is none.
    n_repeated
        Number of distinct texts that occur in several rows.
    n_repeated_one_label
        Number of those whose rows all have the same label.
    """

    name: Clue | None
    word: Clue | None
    number: Clue | None
    n_repeated: int
    n_repeated_one_label: int

    @property
    def clues(self) -> list[Clue]:
        """All clues, names before words."""
        return [clue for clue in (self.name, self.word, self.number) if clue is not None]

    @property
    def strong(self) -> Clue | None:
        """The first strong clue; None if there is none."""
        return next((clue for clue in self.clues if clue.strong), None)


def stated_in(
    texts: Sequence[str],
    y: NDArray[Any],
    names: Sequence[str],
    splits: Sequence[Split],
    *,
    groups: NDArray[Any] | None = None,
    seed: int = 0,
) -> Stated:
    """Measure how well class names, and single words, predict the classes of test rows.

    Parameters
    ----------
    texts
        One text per row.
    y : array of shape (n,) or (n, n_outputs)
        Class numbers, or 0/1 of several labels; floats are numbers to predict.
    names
        Names of the classes, labels or outputs.
    splits
        Splits of the rows. A word is chosen on the training rows of each, and evaluated on its test rows.
    groups : array of shape (n,), optional
        Groups of the rows, such as patients: many rows of few patients are not strong evidence.
    seed
        Seed for sampling rows if there are more than 5,000.

    Examples
    --------
    >>> texts = ["a benign gland", "benign tissue", "malignant gland", "tissue, malignant"] * 8
    >>> y = np.array([0, 0, 1, 1] * 8)
    >>> rows = np.arange(32)
    >>> splits = [Split(f, rows[rows % 2 != f], rows[rows % 2 == f]) for f in (0, 1)]
    >>> stated_in(texts, y, ["benign", "malignant"], splits).strong.words
    'benign'
    """
    drawn = np.arange(len(texts))
    if len(texts) > MOST_ROWS:
        drawn = np.sort(np.random.default_rng(seed).choice(len(texts), MOST_ROWS, replace=False))
    plain = [unicodedata.normalize("NFKC", texts[row]).casefold() for row in drawn.tolist()]
    y = y[drawn]
    unit = np.arange(len(drawn)) if groups is None else np.unique(groups[drawn].astype(str), return_inverse=True)[1]
    place = np.full(len(texts), -1)
    place[drawn] = np.arange(len(drawn))
    parts = [(place[s.train][place[s.train] >= 0], place[s.test][place[s.test] >= 0]) for s in splits]
    parts = [(train, test) for train, test in parts if len(train) and len(test)]
    repeated = _repeated(plain, y)
    if y.dtype.kind == "f":
        return Stated(None, None, _number(plain, y.reshape(len(y), -1), names, parts, seed), *repeated)
    truth = y.astype(bool) if y.ndim == 2 else y[:, None] == np.arange(len(names))  # (n, n_classes)
    return Stated(_name(plain, truth, names, parts, unit), _word(plain, truth, names, parts, unit), None, *repeated)


_Parts = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]


def words_in(text: str) -> list[str]:
    """Return the words of a lower-case text; each character of a script without blanks is a word.

    Examples
    --------
    >>> words_in("lung_aca, grade 2")
    ['lung', 'aca', 'grade', '2']
    """
    return _WORD.findall(text)


def _name(
    texts: Sequence[str], truth: NDArray[np.bool_], names: Sequence[str], parts: _Parts, unit: NDArray[np.int64]
) -> Clue | None:
    """Return the class name that predicts its class best, whole or stemmed."""
    tested = np.unique(np.concatenate([test for _, test in parts])) if parts else np.arange(0)
    found = []
    for c, name in enumerate(names):
        for pattern in _patterns(name):
            has = np.array([pattern.search(texts[row]) is not None for row in tested.tolist()], bool)
            found.append(_clue("name", name, False, name, has, truth[tested, c], unit[tested], CERTAIN_NAME))
    return max((clue for clue in found if clue is not None), key=_rank, default=None)


def _patterns(name: str) -> Iterator[re.Pattern[str]]:
    """Yield patterns that find a class name in a text, exactly and with other endings."""
    words = words_in(unicodedata.normalize("NFKC", name).casefold())
    if not words:
        return
    for stemmed in (False, True):
        parts = [
            re.escape(word[: max(LEAST_STEM, len(word) - 3)]) + r"\w*"
            if stemmed and len(word) > LEAST_STEM
            else re.escape(word) + rf"(?!{_LETTER})"
            for word in words
        ]
        yield re.compile(rf"(?<!{_LETTER})" + r"[\W_]*".join(parts))


def _word(
    texts: Sequence[str], truth: NDArray[np.bool_], names: Sequence[str], parts: _Parts, unit: NDArray[np.int64]
) -> Clue | None:
    """Return the word, or two consecutive words, that predict a class best on test rows.

    The word is chosen for each class and split on the training rows.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        binary=True, tokenizer=words_in, token_pattern=None, lowercase=False, ngram_range=(1, 2)
    )
    try:
        present = vectorizer.fit_transform(texts).tocsr()
    except ValueError:  # no word in any text
        return None
    vocabulary = vectorizer.get_feature_names_out()
    chosen: list[list[tuple[str, bool]]] = [[] for _ in names]
    hits: list[list[NDArray[np.bool_]]] = [[] for _ in names]
    of_truth: list[list[NDArray[np.bool_]]] = [[] for _ in names]
    units: list[list[NDArray[np.int64]]] = [[] for _ in names]
    for train, test in parts:
        inside = present[train]
        n_texts = np.asarray(inside.sum(0)).ravel()
        n_of = truth[train].sum(0)
        with_word = np.asarray(inside.T @ truth[train].astype(np.float64))  # (n_words, n_classes)
        for c in np.flatnonzero((n_of > 0) & (n_of < len(train))).tolist():
            share = with_word[:, c] / n_of[c] - (n_texts - with_word[:, c]) / (len(train) - n_of[c])
            share[n_texts < LEAST_TEXTS] = 0
            best = int(np.argmax(np.abs(share)))
            if share[best] == 0:
                continue
            absent = bool(share[best] < 0)
            chosen[c].append((str(vocabulary[best]), absent))
            hits[c].append(np.asarray(present[test][:, [best]].toarray()).ravel().astype(bool) != absent)
            of_truth[c].append(truth[test, c])
            units[c].append(unit[test])
    found = []
    for c, name in enumerate(names):
        if chosen[c]:
            (word, absent), _ = Counter(chosen[c]).most_common(1)[0]
            rows = np.concatenate(hits[c]), np.concatenate(of_truth[c]), np.concatenate(units[c])
            found.append(_clue("word", word, absent, name, *rows, CERTAIN / len(names)))
    return max((clue for clue in found if clue is not None), key=_rank, default=None)


def _clue(
    kind: Literal["name", "word"],
    words: str,
    absent: bool,
    label: str,
    has: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    unit: NDArray[np.int64],
    certain: float,
) -> Clue | None:
    """Return a clue with the AUC of its presence, the mean of sensitivity and specificity; None for one class."""
    both = np.bincount(2 * truth + has, minlength=4).reshape(2, 2)  # truth, presence
    if not both.sum(1).all():
        return None
    auc = float((both[1, 1] / both[1].sum() + both[0, 0] / both[0].sum()) / 2)
    if auc <= 0.5:
        return None
    first = np.unique(2 * unit + truth, return_index=True)[1]  # one row per unit and class
    once = np.bincount(2 * truth[first] + has[first], minlength=4).reshape(2, 2)
    return Clue(kind, words, absent, label, auc, auc >= STRONG and _p(once) < certain)


def _p(table: NDArray[np.int64]) -> float:
    from scipy.stats import fisher_exact

    return float(fisher_exact(table, alternative="greater")[1])


def _rank(clue: Clue) -> tuple[float, bool]:
    """Sort key for the best clue; for ties, the presence of a word ranks above its absence."""
    return (clue.auc, not clue.absent)


def _number(
    texts: Sequence[str], y: NDArray[np.float64], names: Sequence[str], parts: _Parts, seed: int
) -> Clue | None:
    """Return the output whose number occurs in the most texts, if more often than numbers of other rows do."""
    tested = np.unique(np.concatenate([test for _, test in parts])) if parts else np.arange(0)
    if not len(tested):
        return None
    there = [set(_numbers_in(texts[row])) for row in tested.tolist()]
    others = np.random.default_rng(seed).permutation(tested)
    found = []
    for c, name in enumerate(names):
        own, by_chance = (
            float(np.mean([float(y[row, c]) in numbers for row, numbers in zip(rows.tolist(), there, strict=True)]))
            for rows in (tested, others)
        )
        if own > by_chance:
            found.append(Clue("number", name, False, name, own, own >= STRONG and by_chance <= MOST_BY_CHANCE))
    return max(found, key=_rank, default=None)


def _numbers_in(text: str) -> Iterator[float]:
    """Yield the numbers of a text; a comma may separate decimals or thousands, and a hyphen be a minus or a range.

    Examples
    --------
    >>> sorted(_numbers_in("20,3 % of 1,230 g, 10-45 mm"))
    [-45.0, 1.23, 10.0, 20.3, 45.0, 203.0, 1230.0]
    """
    for word in _NUMBER.findall(text.replace("-", " -").replace("- ", " ")):
        for plain in {word, word.lstrip("-")}:
            for written in {plain.replace(",", ""), plain.replace(".", "").replace(",", ".")}:
                with suppress(ValueError):
                    yield float(written)


def _repeated(texts: Sequence[str], y: NDArray[Any]) -> tuple[int, int]:
    """Return the number of distinct texts in several rows, and of those with one label."""
    labels: dict[str, set[bytes]] = {}
    n_of = Counter(texts)
    for text, label in zip(texts, y, strict=True):
        if n_of[text] > 1:
            labels.setdefault(text, set()).add(np.asarray(label).tobytes())
    return len(labels), sum(len(of) == 1 for of in labels.values())
