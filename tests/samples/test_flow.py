"""The flow of samples: its counts, by sample and by group, of a table whose counts are known."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from headwater.samples.flow import flow_of
from headwater.store import Data


def data_of(kept, left_out):
    table = pl.DataFrame({"id": kept})
    reasons = pl.DataFrame(left_out, schema={"id": pl.String, "reason": pl.String}, orient="row")
    return Data({}, table, np.array(kept, dtype=np.str_), reasons)


def test_counts_that_are_known():
    """Six samples of three patients: one is not selected, two are left out, one patient with both of hers."""
    listed = pl.DataFrame({"id": list("abcdef"), "patient": ["1", "1", "2", "2", "3", " 3 "]})
    data = data_of(["a", "e"], [("c", "unreadable: x/c.png"), ("d", "no label")])
    found = flow_of(
        listed, listed.head(5), data, ids="id", groups="patient", kind=lambda reason: reason.partition(":")[0]
    )
    assert found == {
        "group": "patient",
        "listed": {"samples": 6, "groups": 3},
        "selected": {"samples": 5, "groups": 3},
        "left_out": [
            {"reason": "unreadable", "samples": 1, "groups": 1, "whole_groups": 1},
            {"reason": "no label", "samples": 1, "groups": 1, "whole_groups": 1},
        ],
        "used": {"samples": 3, "groups": 2, "rows": 2},
    }


def test_without_groups_and_with_bags():
    """Without groups there are no counts of them; a bag that is left out takes its samples along."""
    listed = pl.DataFrame({"id": list("abcdef"), "slide": list("xxyyzz")})
    data = data_of(["x", "z"], [("y", "no label")])
    found = flow_of(listed, listed, data, ids="id", groups=None, bags="slide")
    assert found["left_out"] == [{"reason": "no label", "samples": 2, "groups": None, "whole_groups": None}]
    assert found["used"] == {"samples": 4, "groups": None, "rows": 2}


@given(st.lists(st.tuples(st.sampled_from(["", "no text", "no label"]), st.integers(0, 4)), min_size=1, max_size=30))
def test_every_sample_is_counted_once(rows):
    """Used and left out add up to the selected, and groups are lost only if all their samples are."""
    ids = [f"s{i}" for i in range(len(rows))]
    listed = pl.DataFrame({"id": ids, "patient": [str(group) for _, group in rows]})
    kept = [id for id, (why, _) in zip(ids, rows, strict=True) if not why]
    data = data_of(kept, [(id, why) for id, (why, _) in zip(ids, rows, strict=True) if why])
    found = flow_of(listed, listed, data, ids="id", groups="patient")
    assert found["used"]["samples"] + sum(part["samples"] for part in found["left_out"]) == len(rows)
    left = {group for why, group in rows if not why}
    assert found["used"]["groups"] == len(left)
    for part in found["left_out"]:
        here = {group for why, group in rows if why == part["reason"]}
        assert (part["groups"], part["whole_groups"]) == (len(here), len(here - left))
