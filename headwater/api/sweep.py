"""sweep: evaluate inputs x heads x settings on the same splits, and rank them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl

from headwater._checks import require_names
from headwater._devices import Device, require_device
from headwater._options import as_tuple, with_options
from headwater._progress import Progress, counting, progress_to, silent
from headwater._reading import read_json, read_regular
from headwater._shown import Shown
from headwater._tables import csv_bytes
from headwater._writable import require_writable
from headwater.errors import HeadwaterError, InputError, nearest
from headwater.evaluate.bootstrap import default_metric
from headwater.evaluate.options import Protocol
from headwater.experiment.ablation import require_metric
from headwater.experiment.fit import FitOptions, FitPlan, labels_of
from headwater.experiment.head import DEFAULT_HEAD, HeadChoice
from headwater.experiment.leaderboard import Cell, leaderboard_lines, ranked
from headwater.runs.places import PLACES, seen_from
from headwater.runs.run import read_results
from headwater.runs.write import parquet, to_json
from headwater.samples.inputs import POOLED
from headwater.samples.label_names import with_merge
from headwater.samples.selection import Selection
from headwater.store import Store, open_store

COMMAND = "sweep"
COSTS = {  # rough cost of a head's own grid relative to linear, to run cheap heads first and to estimate the time left
    "linear": 1,
    "ordinal": 1,
    "ridge": 1,
    "cox": 2,
    "prototypes": 2,
    "gda": 3,
    "knn": 6,
    "token-mlp": 20,
    "efficient-probing": 20,
    "mil": 20,
    "xgboost": 55,
    "self-attention": 130,
    "merged-attention": 130,
    "cross-attention": 130,
    "co-attention": 200,
    "mlp": 230,
}
OTHER_COST = 300
ABOUT_SAMPLES = (
    "left_out",
    "flow",
    "class_counts",
    "positive",
    "missing_values",
    "warnings",
)  # sections of metrics that are the same in every cell
LATER = ("classes", "environment", "view_levels")  # parts of a config that are known only after the run
MAY_DIFFER = (*PLACES, "device")  # parts of a config that do not change what is fitted


OLDER: dict[str, Any] = {
    **dict.fromkeys(("positive", "time", "event", "risk_groups", "order", "prevalence")),
    "keep_folds": False,
}
"""Options that runs of older versions did not have, with what they did."""


@dataclass(frozen=True, repr=False)
class Sweep(Shown):
    """A finished sweep.

    Attributes
    ----------
    path
        Its directory; each cell's run is in ``runs/`` below it.
    found
        Contents of ``sweep.json``: ``leaderboard``, ``picked`` (the result of selection by inner folds alone),
        ``metric``, and how intervals were made.
    leaderboard
        One row per cell, best first.
    trials
        One row per setting of each cell tried on inner folds.
    """

    path: Path
    found: Mapping[str, Any]
    leaderboard: pl.DataFrame
    trials: pl.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(self.found)

    def lines(self) -> list[str]:
        """Return the results in a few lines."""
        settings = f"{len(self.trials):,} trials"
        return [
            *leaderboard_lines(self.found),
            f"leaderboard.csv, {settings} and {len(self.leaderboard)} runs in {self.path}",
        ]


SWEPT = {"task", "time", "event", "risk_groups", "order", "trials", "groups", "folds", "split", "holdout", "by", "seed"}
SWEPT |= {"seeds", "inner_folds", "halving"}
SWEPT |= {"per", "aggregate", "positive", "where", "bags", "views", "label_separator", "merge", "missing_values"}
"""Options of `headwater.Protocol` and `headwater.Selection` that a sweep uses."""


def sweep(
    store: str | Path | Store,
    *,
    features: Sequence[str],
    label: str | Sequence[str] | None = None,
    out: str | Path,
    heads: str | Sequence[str] | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    grid: str | Path | None = None,
    report_each: str | Sequence[str] | None = None,
    metric: str | None = None,
    device: Device = "auto",
    allow_leakage: str | None = None,
    protocol: Protocol | None = None,
    selection: Selection | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Sweep:
    """Evaluate every combination of inputs and head on the same samples and splits, with settings selected in each.

    Each cell is a run of `fit_head` with ``samples_with`` set to all features of the sweep. Cheap heads run first. The
    same call continues a stopped sweep.

    Parameters
    ----------
    store
        A store, or its path.
    features
        Inputs, each a feature set ``NAME/MODALITY``, or several joined by ``+``.
    label
        As in `fit_head`.
    out
        The directory to write: ``leaderboard.parquet`` and ``.csv``, ``trials.parquet``, ``sweep.json``, and ``runs/``.
    heads
        Kinds of heads. Default: ``linear``; ``ridge`` for regression, ``cox`` for survival, ``ordinal`` for grades. A
        head that needs two inputs is skipped for a single input.
    params
        Parameters by kind of head; a list of values is searched, as in `fit_head`.
    grid
        A TOML file with a table of further parameters for each kind of head.
    report_each
        Parameters with a list of values whose values are rows of the leaderboard, each a run of its own, rather than
        selected among: ``"n_tokens"`` for every head that has it, or ``"co-attention.n_tokens"``.
    metric
        Metric to sort the leaderboard by. Default: the AUC (macro, for several labels), r2 for regression, c_index for
        survival, or the quadratic kappa for grades.
    device, allow_leakage, protocol, selection
        As in `fit_head`.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Fields of `headwater.Protocol` and `headwater.Selection` by their names, such as ``groups="patient"`` or
        ``trials=30``: all except ``fine``, ``missing``, ``samples_with``, and those on few shots, calibration,
        thresholds and prediction sets.

    Returns
    -------
    Sweep

    Raises
    ------
    InputError, SplitError, HeadError, StoreError, MissingExtra
        Each with one line that says what, where and what to do.
    """
    require_writable(out)
    require_device(device)  # refuses a GPU that is not there, before anything is read
    protocol, selection = with_options("sweep", options, protocol or Protocol(), selection or Selection(), only=SWEPT)
    protocol.refuse()
    labels = labels_of(label, protocol)
    opened = store if isinstance(store, Store) else open_store(store)
    plans, skipped = _plans(
        opened,
        features,
        labels,
        heads,
        params or {},
        grid,
        device,
        allow_leakage,
        protocol,
        selection,
        as_tuple(report_each),
    )
    if metric is not None:
        require_metric(next(iter(plans.values())).task(), metric)
    folder = _begun(Path(out), plans)
    _run(folder, plans, progress_to(progress))
    cells = [
        Cell(name, plan.asked.features, _shown_head(name, plan), read_results(folder / "runs" / name))
        for name, plan in plans.items()
    ]
    return _finished(folder, cells, metric, protocol.seed, skipped)


def _plans(
    store: Store,
    features: str | Sequence[str],
    labels: tuple[str, ...],
    heads: str | Sequence[str] | None,
    params: Mapping[str, Mapping[str, Any]],
    grid: str | Path | None,
    device: Device,
    allow_leakage: str | None,
    protocol: Protocol,
    selection: Selection,
    report_each: Sequence[str],
) -> tuple[dict[str, FitPlan], list[dict[str, str]]]:
    """Return the fit of each cell by name, cheap heads first, and the skipped cells with the reason."""
    sets = list(dict.fromkeys(_names(part) for part in require_names("--features", features)))
    kinds = list(as_tuple(heads or DEFAULT_HEAD.get(protocol.task, "linear")))
    selection = with_merge(selection)
    of_heads = _parameters(params, grid, kinds)
    every = tuple(dict.fromkeys(name.removesuffix(POOLED) for names in sets for name in names))
    plans: dict[str, FitPlan] = {}
    skipped: list[dict[str, str]] = []
    heads_asked = [one for kind in sorted(kinds, key=_cost) for one in _variants(kind, of_heads, report_each)]
    for kind, params_of_kind, variant in heads_asked:
        chosen = HeadChoice.under(protocol, kind, params_of_kind, device=device, option=f"--set {kind}.")
        if chosen.head().needs_texts:
            raise InputError(
                f"--heads {kind} needs prompts, which a sweep does not take: run fit-head --prompts for it."
            )
        for names in sets:
            if len(names) < chosen.head().least_inputs and selection.views is None:
                why = f"it needs {chosen.head().least_inputs} inputs"
                skipped.append({"features": "+".join(names), "head": kind, "why": why})
                continue
            own = {name.removesuffix(POOLED) for name in names}
            asked = FitOptions(
                features=names,
                labels=labels,
                head=chosen,
                params=params_of_kind,
                protocol=protocol,
                selection=replace(selection, samples_with=tuple(name for name in every if name not in own)),
                allow_leakage=allow_leakage,
            )
            asked.refuse()
            plans[_cell_name(names, kind) + variant] = asked.on(store)
    if not plans:
        raise InputError(f"nothing to sweep: {kinds[0]} needs two inputs. Join them, as in --features A/image+B/text.")
    return plans, skipped


def _shown_head(name: str, plan: FitPlan) -> str:
    """Return what the leaderboard calls a cell's head: its kind, with the values that are reported each."""
    return plan.asked.head.kind + name.removeprefix(_cell_name(plan.asked.features, plan.asked.head.kind))


def _variants(
    kind: str, of_heads: Mapping[str, Mapping[str, Any]], report_each: Sequence[str]
) -> list[tuple[str, dict[str, Any], str]]:
    """Return the kind with its parameters, once for each combination of the values to report, and what names it."""
    given = dict(of_heads.get(kind, {}))
    names = [name.rpartition(".")[2] for name in report_each if name.rpartition(".")[0] in ("", kind)]
    listed = [name for name in names if isinstance(given.get(name), list)]
    missing = [name for name in names if name not in listed and f"{kind}.{name}" in report_each]
    if missing or (names and not listed and not any(_lists(of, names) for of in of_heads.values())):
        name = (missing or names)[0]
        raise InputError(f"--report-each {name}: give its values as a list, such as --set {kind}.{name}=[64,256].")
    found = []
    for values in product(*(given[name] for name in listed)):
        words = "".join(
            f"-{name}-{re.sub(r'[^A-Za-z0-9.]+', '_', str(v))}" for name, v in zip(listed, values, strict=True)
        )
        found.append((kind, {**given, **dict(zip(listed, values, strict=True))}, words))
    return found


def _lists(params: Mapping[str, Any], names: Sequence[str]) -> bool:
    return any(isinstance(params.get(name), list) for name in names)


def _names(part: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in part.split("+"))
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"--features {part}: write NAME/MODALITY, or several different ones joined by +.")
    return names


def _cost(kind: str) -> int:
    return COSTS.get(kind, OTHER_COST)


def _seconds_left(taken: Sequence[tuple[str, float]], left: Sequence[str]) -> float:
    """Estimate the duration of the remaining cells from their kinds of head.

    A kind that has run is expected to take its mean time again; for other kinds the time is scaled by `COSTS`.

    Examples
    --------
    >>> _seconds_left([("linear", 2.0), ("linear", 4.0)], ["linear", "knn"])
    21.0
    """
    pace = sum(seconds for _, seconds in taken) / sum(_cost(kind) for kind, _ in taken)
    seen: dict[str, list[float]] = {}
    for kind, seconds in taken:
        seen.setdefault(kind, []).append(seconds)
    return sum(sum(seen[kind]) / len(seen[kind]) if kind in seen else pace * _cost(kind) for kind in left)


def _cell_name(names: Sequence[str], kind: str) -> str:
    """Return the name of a cell's directory.

    Examples
    --------
    >>> _cell_name(["vit/image", "bert/text:pooled"], "mlp")
    'vit-image+bert-text-pooled.mlp'
    """
    return f"{'+'.join(names).replace('/', '-').replace(':', '-')}.{kind}"


def _parameters(
    params: Mapping[str, Mapping[str, Any]], grid: str | Path | None, kinds: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return parameters by kind of head, from ``--set`` and ``--grid``."""
    out: dict[str, dict[str, Any]] = {}
    for source, given in (("--set", params), (f"--grid {grid}", {} if grid is None else _read_grid(Path(grid)))):
        for kind, values in given.items():
            if kind not in kinds:
                raise InputError(f"{source}: {kind!r} is not in --heads.{nearest(kind, kinds)}")
            if not isinstance(values, Mapping):
                raise InputError(f"{source}: {kind} must be a table of parameters.")
            twice = sorted(set(values) & set(out.get(kind, {})))
            if twice:
                raise InputError(f"{source}: {kind}.{twice[0]} is given by --set too. Give it once.")
            out.setdefault(kind, {}).update(values)
    return out


def _read_grid(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path).decode())
    except FileNotFoundError as error:
        raise InputError(f"--grid {path}: no such file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--grid {path} is not TOML: {error}.") from error


# On disk


def _begun(folder: Path, plans: Mapping[str, FitPlan]) -> Path:
    """Return the directory of a sweep, new or existing; refuse one that holds anything else."""
    config = _config(plans)
    there = folder / "config.json"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file. Give another path.")
    if there.exists():
        earlier = _json(there)
        if earlier.get("command") != COMMAND:
            raise InputError(f"--out {folder} holds something that is not a sweep. Give another path.")
        # the store may have been moved, so features and samples are compared by digest
        earlier = OLDER | earlier
        earlier.setdefault("halving", _older_halving(plans.values()))
        names = dict.fromkeys([*config, *earlier])
        if "missing_values" not in earlier and _has_none_missing(next(iter(plans.values()))):
            del names["missing_values"]  # older versions had no such words, and these samples have none
        differ = [name for name in names if name not in MAY_DIFFER and config.get(name) != earlier.get(name)]
        if differ and any(_cells_there(folder)):
            raise InputError(
                f"--out {folder} holds a sweep with other {', '.join(differ)}. Give another path, or the same options "
                "as before."
            )
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"--out {folder} holds something that is not a sweep. Give another path.")
    for unfinished in (folder / "runs").glob(".*.tmp"):
        shutil.rmtree(unfinished)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    _write(there, to_json(seen_from(folder, config)).encode())
    return folder


def _older_halving(plans: Iterable[FitPlan]) -> bool:
    """Return what an older version, which dropped no settings, has in place of the option ``halving``."""
    asked = [plan.asked for plan in plans]
    return asked[0].protocol.halving and not any(one.head.head().pausable for one in asked)


def _cells_there(folder: Path) -> Iterator[Path]:
    """Yield the finished runs of a sweep."""
    return (path for path in (folder / "runs").glob("*/metrics.json") if not path.parent.name.startswith("."))


def _has_none_missing(plan: FitPlan) -> bool:
    """Whether the used columns hold no word for a missing value, and no leading or trailing blanks."""
    asked = plan.asked
    rule = asked.selection.rule(asked.labels, asked.protocol, plan.store.roles.id)
    table = plan.store.select(asked.selection.where).select(rule.columns)
    return rule.tidied(table).equals(table)


def _config(plans: Mapping[str, FitPlan]) -> dict[str, Any]:
    """Return the configuration of a sweep: options shared by its cells, their differences, and the samples' digest."""
    configs = {name: plan.config for name, plan in plans.items()}
    first = next(iter(configs.values()))
    own = ("command", "features", "head", "params", "tokens", "samples_with")
    every = {name: spec for config in configs.values() for name, spec in config["features"].items()}
    plan = next(iter(plans.values()))
    config = {
        "command": COMMAND,
        "features": every,
        "heads": {config["head"]: config["params"] for config in configs.values()},
        **{name: value for name, value in first.items() if name not in own},
        "cells": list(plans),
        "samples": _digest(plan),
    }
    plain: dict[str, Any] = json.loads(to_json(config))
    return plain


def _digest(plan: FitPlan) -> str:
    """Return a digest that changes when the samples, their labels or their groups change."""
    asked = plan.asked
    made_of = [name for name in (asked.selection.bags, asked.selection.views) if name is not None]
    columns = dict.fromkeys([plan.store.roles.id, *plan.used, *made_of])
    table = plan.store.select(asked.selection.where).select(list(columns))
    return hashlib.blake2b(table.write_ndjson().encode(), digest_size=16).hexdigest()


def _run(folder: Path, plans: Mapping[str, FitPlan], progress: Progress) -> None:
    """Run the unfinished cells."""
    left = {name: plan for name, plan in plans.items() if not _is_finished(folder / "runs" / name, plan)}
    with counting(progress, "sweep", len(left), unit="cells") as update:
        kinds = [plan.asked.head.kind for plan in left.values()]
        taken: list[tuple[str, float]] = []
        for done, (name, plan) in enumerate(left.items(), 1):
            start = time.monotonic()
            try:
                plan.run(folder / "runs" / name, silent, inner_always=True, for_new_cases=False)
            except HeadwaterError as error:
                raise type(error)(f"{name}: {error}") from error
            taken.append((plan.asked.head.kind, time.monotonic() - start))
            update(done, left=_seconds_left(taken, kinds[done:]))


def _is_finished(path: Path, plan: FitPlan) -> bool:
    """Whether a cell is finished, with this configuration."""
    if not (path / "metrics.json").exists():
        return False
    later = (*LATER, *MAY_DIFFER)
    config = {name: value for name, value in _json(path / "config.json").items() if name not in later}
    wanted = {name: value for name, value in json.loads(to_json(plan.config)).items() if name not in later}
    config = OLDER | config
    config.setdefault("halving", _older_halving([plan]))
    if "missing_values" not in config:  # written by an older version; `_begun` has accepted it
        del wanted["missing_values"]
    return config == wanted and read_results(path).trials is not None


def _finished(
    folder: Path, cells: Sequence[Cell], metric: str | None, seed: int, skipped: Sequence[Mapping[str, str]]
) -> Sweep:
    """Rank the cells, and write the results."""
    task = cells[0].results.metrics["task"]
    metric = metric or default_metric(task, [cell.results.metrics["mean"] for cell in cells])
    found = {
        **ranked(cells, metric, seed),
        **{name: cells[0].results.metrics[name] for name in ABOUT_SAMPLES if name in cells[0].results.metrics},
        "skipped": list(skipped),
    }
    leaderboard = pl.DataFrame(found["leaderboard"], infer_schema_length=None)
    trials = pl.concat(
        [
            cell.tried.select(
                pl.lit(cell.name).alias("cell"),
                pl.lit("+".join(cell.features)).alias("features"),
                pl.lit(cell.head).alias("head"),
                pl.all(),
            )
            for cell in cells
        ]
    )
    _write(folder / "leaderboard.parquet", parquet(leaderboard))
    _write(folder / "leaderboard.csv", csv_bytes(leaderboard))
    _write(folder / "trials.parquet", parquet(trials))
    _write(folder / "sweep.json", to_json(found).encode())
    return Sweep(folder, found, leaderboard, trials)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, content: bytes) -> None:
    """Replace a file atomically."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(content)
    beside.replace(path)
