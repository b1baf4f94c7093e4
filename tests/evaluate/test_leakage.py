"""What straddles a split is what comparing all rows with each other says."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headwater.evaluate import Split
from headwater.evaluate.leakage import Sides, Values


@st.composite
def things(draw):
    """Rows, each of a thing, each training (0), tested (1) or neither (2) in some splits, and with a value."""
    n, n_splits = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    _, codes = np.unique(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), return_inverse=True)
    roles = np.array(draw(st.lists(st.lists(st.integers(0, 2), min_size=n, max_size=n), min_size=1, max_size=n_splits)))
    values = np.array(draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n)))
    return codes, roles, values


@given(things())
def test_sides(drawn):
    """A thing straddles when one of its rows trains where another is tested; a pair of things, when theirs do."""
    codes, roles, _ = drawn
    splits = [Split(s, np.flatnonzero(r == 0), np.flatnonzero(r == 1)) for s, r in enumerate(roles)]
    sides = Sides.of(codes, splits)
    n = codes.max() + 1

    def leaks(tested, trained):
        rows = ((a, b) for a in np.flatnonzero(codes == tested) for b in np.flatnonzero(codes == trained))
        return any((roles[:, a] == 1)[s] and (roles[:, b] == 0)[s] for a, b in rows for s in range(len(roles)))

    i, j = (part.ravel() for part in np.indices((n, n)))
    expected = np.array([leaks(a, b) for a, b in zip(i, j, strict=True)])
    assert (sides.leaks(i, j) == expected).all()
    assert (sides.straddling() == expected[i == j]).all()
    assert (sides.between(i, j) == (expected | sides.leaks(j, i))).all()


@given(things())
def test_values(drawn):
    """A thing's rows differ when they have two values; a pair's, when they do not all have one and the same."""
    codes, _, values = drawn
    found = Values.of(codes, values)
    of = [set(values[codes == c]) for c in range(codes.max() + 1)]
    assert found.differ().tolist() == [len(v) > 1 for v in of]
    i, j = (part.ravel() for part in np.indices((len(of), len(of))))
    assert found.between(i, j).tolist() == [len(of[a] | of[b]) > 1 for a, b in zip(i, j, strict=True)]
