"""Names that are very likely meant to be the same: one patient in two spellings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

# Letters of other scripts that look like Latin ones, in lower case.
_LATIN = dict(zip("аеіјорсухѕԁһӏոαβεικμνορτυχ", "aeijopcyxsdhlnabeikuvoptux", strict=True))
_ZERO_WIDTH = r"[\u200b-\u200f\u2060\ufeff\u00ad]"
SHOWN = 3  # sets of names that a warning lists


def folded(names: pl.Series) -> pl.Series:
    """Return names in one spelling: without case, blanks, leading zeros and look-alike letters.

    Examples
    --------
    >>> import polars as pl
    >>> folded(pl.Series(["P01", "p1 ", "Р1", "P10"])).to_list()
    ['p1', 'p1', 'p1', 'p10']
    """
    plain = names.str.normalize("NFKC").str.to_lowercase().str.replace_all(rf"\s+|{_ZERO_WIDTH}", "")
    latin = plain.str.replace_many(list(_LATIN), list(_LATIN.values()))
    return latin.str.replace_all(r"(^|[^0-9.,])0+([0-9])", "${1}${2}")


def spelled_alike(names: pl.Series) -> list[list[str]]:
    """Return sets of names that differ only in case, blanks, leading zeros or look-alike letters, each sorted.

    Examples
    --------
    >>> import polars as pl
    >>> spelled_alike(pl.Series(["P01", "P02", "p1", None, "P02"]))
    [['P01', 'p1']]
    """
    import polars as pl

    distinct = names.drop_nulls().cast(pl.String).unique()
    keys = folded(distinct)
    if keys.n_unique() == len(distinct):
        return []
    pairs = pl.DataFrame({"name": distinct, "key": keys}).filter(pl.col("key").is_duplicated())
    sets = pairs.group_by("key").agg(pl.col("name").sort()).sort("key")
    return [list(names) for names in sets["name"].to_list()]


def alike_line(names: pl.Series, what: str) -> list[str]:
    """Warn of values that seem to be one, in a line; no line if there are none."""
    found = spelled_alike(names)
    if not found:
        return []
    shown = "; ".join(" and ".join(map(ascii, some[:4])) for some in found[:SHOWN])
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return [
        f"{what}: values differ only in case, blanks or spelling: {shown}{more}. If they are the same, use one "
        "spelling in the manifest"
    ]
