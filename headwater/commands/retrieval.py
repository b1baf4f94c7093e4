"""Commands that compare stored items with each other: similar, index, retrieval-report, audit."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

from headwater.commands import options as o
from headwater.commands.options import option
from headwater.commands.output import show, warn_of_code

QUERY = "Query"


def similar(
    store: o.Store,
    features: Annotated[str, option(panel=o.DATA, metavar="NAME/MODALITY", help="The features to search in.")],
    id: Annotated[str | None, option(panel=QUERY, metavar="ID", help="Find cases like this sample.")] = None,
    image: Annotated[Path | None, option(panel=QUERY, metavar="FILE", help="Find cases like this image.")] = None,
    text: Annotated[
        str | None,
        option(panel=QUERY, metavar="WORDS", help="Find cases that these words describe; also together with --image."),
    ] = None,
    weight: Annotated[
        float | None,
        option(panel=QUERY, metavar="W", help="With --image and --text: weight of the image, 0 to 1. Default: 0.5."),
    ] = None,
    k: Annotated[int, option("-k", panel=QUERY, min=1, help="How many to find.")] = 10,
    exclude_same: Annotated[
        str | None,
        option(panel=QUERY, metavar="COL", help="Leave out cases with the value of --id, such as the same patient."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        option(panel=QUERY, metavar="COL=VALUE", help="Leave out cases with this value; repeat."),
    ] = None,
    one_per: Annotated[
        str | None,
        option(panel=QUERY, metavar="COL", help="At most one case for each value, such as one for each patient."),
    ] = None,
    where: o.Where = None,
    index: Annotated[
        str | None, option(panel=QUERY, metavar="KIND", help="Search in this index instead of exactly.")
    ] = None,
    weights: o.Weights = None,
    trust_remote_code: o.Trust = False,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, option(panel=o.OUTPUT, metavar="FILE", help="Write the cases with pictures, as .html or .png.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Find similar cases.

    Example:
      headwater similar scans.hw --features vit/image --id case-12 --exclude-same patient
      headwater similar scans.hw --features clip/image --image new.png --text "dense breast" --one-per patient
    """
    from headwater import api

    warn_of_code(trust_remote_code)
    hits = api.similar(
        store,
        features=features,
        id=id,
        image=image,
        text=text,
        weight=weight,
        k=k,
        where=where,
        exclude_same=exclude_same,
        exclude=exclude,
        one_per=one_per,
        index=index,
        weights=weights,
        device=device,
        trust_remote_code=trust_remote_code,
        out=out,
    )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = api.hit_lines(hits, width=width)
    if 0 < len(hits) < k:
        lines.append(f"{len(hits)} found instead of {k}: no others have these features and are not left out")
    if out is not None:
        lines.append(f"pictures in {out}")
    show(lines, [hit.to_dict() for hit in hits], json)


def index(
    store: o.Store,
    features: Annotated[str, option(panel=o.DATA, metavar="NAME/MODALITY", help="The features to index.")],
    kind: Annotated[Literal["flat", "ivf", "hnsw", "ivfpq"], option(panel=QUERY, help="Kind of FAISS index.")] = "hnsw",
    recall: Annotated[
        float | None,
        option(panel=QUERY, metavar="R", help="Search as widely as this recall among the ten nearest needs, as 0.99."),
    ] = None,
    anew: Annotated[bool, option("--anew", panel=QUERY, help="Build it anew instead of updating it.")] = False,
    seed: Annotated[int, option(panel=QUERY, min=0, help="Random seed.")] = 0,
    device: o.Device = "auto",
    json: o.Json = False,
) -> None:
    """Build a FAISS index, or bring it up to date.

    Its recall is measured against exact search.

    Example:
      headwater index scans.hw --features vit/image --kind hnsw --recall 0.99
    """
    from headwater import api

    made = api.index(
        store, features=features, kind=kind, recall=recall, anew=anew, seed=seed, device=device, progress=True
    )
    show([made.line()], vars(made), json)


def retrieval_report(
    store: o.Store,
    features: Annotated[str, option(panel=o.DATA, metavar="NAME/MODALITY", help="The features to search in.")],
    label: Annotated[str, option(panel=o.DATA, metavar="COL", help="Column that neighbours should agree on.")],
    groups: o.Groups = None,
    by: Annotated[
        list[str] | None,
        option(panel=o.REPORT, metavar="COL", help="Do neighbours share this, such as the site or scanner? Repeat."),
    ] = None,
    where: o.Where = None,
    missing_values: o.MissingValues = None,
    level: Annotated[float, option(panel=o.REPORT, metavar="P", help="Confidence level.")] = 0.95,
    draws: Annotated[int, option(panel=o.REPORT, metavar="N", help="Resamples of groups for intervals.")] = 2000,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, option(panel=o.OUTPUT, metavar="FILE", help="Write a row for each query, as .csv or .parquet.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Measure how well similar cases are found.

    Each sample is a query. Its neighbours are from other groups, such as other patients.

    Example:
      headwater retrieval-report scans.hw --features vit/image --label density --groups patient --by scanner
    """
    from headwater import api

    found = api.retrieval_report(
        store,
        features=features,
        label=label,
        groups=groups,
        by=by,
        where=where,
        missing_values=missing_values,
        level=level,
        draws=draws,
        seed=seed,
        device=device,
        out=out,
        progress=True,
    )
    lines = found.lines() + ([f"queries in {out}"] if out is not None else [])
    show(lines, found.to_dict(), json)


def audit(
    store: o.Store,
    features: Annotated[
        list[str] | None,
        option(panel=o.DATA, metavar="NAME/MODALITY", help="Features. Default: the only feature set; repeat."),
    ] = None,
    label: Annotated[
        str | None, option(panel=o.DATA, metavar="COL", help="Report duplicates whose value of this column differs.")
    ] = None,
    where: o.Where = None,
    missing_values: o.MissingValues = None,
    groups: o.Groups = None,
    split: Annotated[str | None, option(panel=o.SPLIT, metavar="COL", help="Column with the sides of a split.")] = None,
    folds: Annotated[
        int | None, option(panel=o.SPLIT, metavar="N", help="Check the folds that fit-head would make.")
    ] = None,
    seed: o.Seed = 0,
    by: Annotated[
        str | None,
        option(panel=o.REPORT, metavar="COL", help="Column of the site: do features show it rather than the label?"),
    ] = None,
    false_alarms: Annotated[
        float, option(panel=o.REPORT, help="Share of unrelated pairs that may count as near duplicates.")
    ] = 1e-5,
    threshold: Annotated[
        float | None, option(panel=o.REPORT, help="Whitened cosine similarity to use instead.")
    ] = None,
    exact: Annotated[
        bool, option("--exact", panel=o.REPORT, help="Compare all pairs, also of 50,000 contents or more.")
    ] = False,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, option(panel=o.OUTPUT, metavar="FILE", help="Write the pairs, as .csv or .parquet.")
    ] = None,
    groups_out: Annotated[
        str | None,
        option(
            panel=o.OUTPUT,
            metavar="COL",
            help="Write clusters of duplicates, joined with --groups, into this column of the samples, for --groups.",
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Find duplicates in a store.

    Reports exact and near duplicates that cross groups, splits or labels.

    Example:
      headwater audit scans.hw --features vit/image --groups patient --label density
    """
    from headwater import api

    found = api.audit(
        store,
        features=features,
        label=label,
        groups=groups,
        split=split,
        folds=folds,
        seed=seed,
        by=by,
        where=where,
        missing_values=missing_values,
        false_alarms=false_alarms,
        threshold=threshold,
        exact=exact,
        groups_out=groups_out,
        device=device,
        out=out,
        progress=True,
    )
    lines = found.lines() + ([f"pairs in {out}"] if out is not None else [])
    show(lines, found.to_dict(), json)
