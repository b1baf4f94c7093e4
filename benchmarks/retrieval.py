"""Search, index and near duplicates against FAISS, scikit-learn and the search of all pairs, side by side in one run.

    python benchmarks/retrieval.py [ROW …] [--n 200000] [--store FOLDER]

Rows: one, many, filter, index, process, update, audit; by default all. Rows of noise, 768 numbers each as float16 on
disk, unless said otherwise. The sides of a row take turns, and medians count. ``--store`` keeps the store for the next
run. Threads are those of the environment: OMP_NUM_THREADS=1 gives every side one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import _stores
import faiss
import numpy as np
import polars as pl
from _timing import machine, medians, report
from numpy.typing import NDArray

from headwater.api import index as build
from headwater.retrieve import Searcher, build_index, load_index, search
from headwater.retrieve.duplicates import Tail, Whitening, pairs_above
from headwater.retrieve.near import NearPairs
from headwater.samples.cases import Cases
from headwater.store import BlockResult, Store, open_store

DIM, K, N_QUERIES, SHARE = 768, 10, 1000, 0.01


def normal(seed: int, *shape: int) -> NDArray[np.float16]:
    """Return normal noise, which has no very small or large numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(np.float16)


def made(path: Path, n: int) -> Store:
    """Open the store at a path, or make one with patients and labels."""
    if (path / "store.json").exists():
        return open_store(path)
    _stores.noise = normal
    store = _stores.make_store(path, n, DIM)
    table = store.samples.with_columns(
        patient=pl.Series([f"p{i // 5}" for i in range(n)]), label=pl.Series([("a", "b", "c")[i % 3] for i in range(n)])
    )
    store.write_samples(table, store.roles)
    return store


class Bench:
    """The store, its features in several forms, and queries."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.cases = Cases(store, _stores.NAME)
        self.X = self.cases.features.pooled
        self.searcher: Searcher = self.cases.searcher
        self.lengths = self.searcher.lengths()
        queries = np.random.default_rng(1).standard_normal((N_QUERIES, DIM)).astype(np.float32)
        self.queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)

    def units(self) -> NDArray[np.float32]:
        """All rows as float32 unit vectors, in memory."""
        out = np.empty(self.X.shape, np.float32)
        for span, block in self.X.blocks():
            out[span] = block.astype(np.float32) / self.lengths[span, None]
        return out

    def flat(self) -> faiss.Index:
        """The rows in FAISS's exact index, float32 in memory."""
        index = faiss.IndexFlatIP(DIM)
        for span, block in self.X.blocks():
            index.add(block.astype(np.float32) / self.lengths[span, None])
        return index


def one(bench: Bench) -> None:
    """One query, and 1,000 one after the other are a thousand of these."""
    flat, query = bench.flat(), bench.queries[:1]
    times = medians({"ours": lambda: bench.searcher.search(query, K), "faiss": lambda: flat.search(query, K)}, 15)
    first = medians({"a search that keeps nothing": lambda: search(bench.X, query, K)}, 3)
    print(*(f"  {name}: {seconds * 1e3:.0f} ms" for name, seconds in first.items()))
    same = (bench.searcher.search(bench.queries[:20], K)[1] == flat.search(bench.queries[:20], K)[1]).mean()
    report(f"one query, the same rows to {same:.3f}, against IndexFlatIP", times["ours"], times["faiss"], 0.5)


def many(bench: Bench) -> None:
    """1,000 queries at once, with half of FAISS's memory."""
    from sklearn.neighbors import NearestNeighbors

    queries = bench.queries
    times = _against_flat(bench)
    neighbours = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(bench.units())
    slow = medians({"sklearn": lambda: neighbours.kneighbors(queries)}, 1)["sklearn"]
    report(f"{N_QUERIES:,} queries, against IndexFlatIP", times["ours"], times["faiss"], 0.8)
    report(f"{N_QUERIES:,} queries, against NearestNeighbors", times["ours"], slow, 3)


def _against_flat(bench: Bench) -> dict[str, float]:
    flat, queries = bench.flat(), bench.queries
    return medians({"ours": lambda: bench.searcher.search(queries, K), "faiss": lambda: flat.search(queries, K)}, 3)


def filtered(bench: Bench) -> None:
    """One query among one per cent of the rows, against exact search of these rows alone."""
    n = len(bench.X)
    rows = np.sort(np.random.default_rng(2).choice(n, round(SHARE * n), replace=False))
    mask = np.zeros(n, np.bool_)
    mask[rows] = True
    alone = np.ascontiguousarray(bench.X[rows])
    held, only, query = Searcher(alone), bench.searcher.only(mask), bench.queries[:1]
    flat = faiss.IndexFlatIP(DIM)
    flat.add(alone.astype(np.float32) / bench.lengths[rows, None])
    whole = bench.flat()
    chosen = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little")))
    sides = {
        "mask": lambda: bench.searcher.search(query, K, rows=mask),
        "only": lambda: only.search(query, K),
        "search": lambda: search(alone, query, K),
        "held": lambda: held.search(query, K),
        "flat": lambda: flat.search(query, K),
        "selector": lambda: whole.search(query, K, params=chosen),
    }
    ms = {name: 1e3 * seconds for name, seconds in medians(sides, 41).items()}
    true = rows[held.search(bench.queries[:50], K)[1]]
    for name, found in (("mask", bench.searcher.search(bench.queries[:50], K, rows=mask)[1]), ("only", None)):
        found = only.search(bench.queries[:50], K)[1] if found is None else found
        print(f"  filter of {SHARE:.0%} by {name}: recall {(found == true).mean():.3f}")
    report("a mask, against `search` of copies of these rows", ms["mask"], ms["search"], 0.67, "ms")
    report("a mask, against IndexFlatIP of all with a selector", ms["mask"], ms["selector"], None, "ms")
    report("a mask, against a searcher of copies of these rows", ms["mask"], ms["held"], None, "ms")
    report("`only`, against a searcher of copies of these rows", ms["only"], ms["held"], 0.67, "ms")
    report("`only`, against IndexFlatIP of copies of these rows", ms["only"], ms["flat"], None, "ms")


def indexed(bench: Bench) -> None:
    """Search through headwater's index against the FAISS index that is in it."""
    for kind, n_rows in (("ivf", len(bench.X)), ("ivf", len(bench.X) // 10), ("hnsw", len(bench.X) // 10)):
        X = np.ascontiguousarray(bench.X[:n_rows])
        ours = build_index(X, kind)
        if kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=64)
        else:
            params = faiss.SearchParametersIVF(nprobe=ours._n_probed(1.0))
        for n, repeats in ((N_QUERIES, 9), (1, 501)):
            sides = {
                "ours": partial(ours.search, bench.queries[:n], K),
                "bare": partial(ours.native.search, bench.queries[:n], K, params=params),
            }
            ms = {name: 1e3 * seconds for name, seconds in medians(sides, repeats).items()}
            what = f"{kind} index of {len(X):,}, {n:,} at once, against the bare one"
            report(what, ms["ours"], ms["bare"], 0.95, "ms")


def process(bench: Bench) -> None:
    """`similar` by a sample as a whole process, beyond one that imports NumPy and polars."""
    run = [sys.executable, "-m", "headwater", "similar", str(bench.store.path)]
    run += ["--features", _stores.NAME, "--id", "77"]
    least = [sys.executable, "-c", "import numpy, polars"]
    times = medians({"ours": lambda: _done(run), "least": lambda: _done(least)}, 9)
    more = times["ours"] - times["least"]
    sides = f"{times['ours']:.2f} s against {times['least']:.2f} s"
    print(f"similar as a process: {sides}, {more:.2f} s more (at most 0.4 s: {'met' if more <= 0.4 else 'MISSED'})")


def _done(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def update(bench: Bench) -> None:
    """Bring an index up to date with one per cent of new items, against building it anew; of half of the rows."""
    n = len(bench.X) // 2
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("hnsw", "ivf"):
            store = made(Path(folder) / f"{kind}.hw", n)
            begin = time.perf_counter()
            first = build(store, features=_stores.NAME, kind=kind)
            built = time.perf_counter() - begin
            _grow(store, n // 100)
            begin = time.perf_counter()
            after = build(store, features=_stores.NAME, kind=kind)
            updated = time.perf_counter() - begin
            load_index(store.index_path(_stores.NAME, kind), fingerprint=store.features(_stores.NAME).fingerprint)
            recalls = f"{first.recall_at_10:.3f} before, {after.recall_at_10:.3f} after"
            print(f"  recall@10 {recalls}; {after.n_added:,} added")
            report(f"{kind} index of {n:,}, 1 % new", updated, built, 20)


def _grow(store: Store, n: int) -> None:
    keys = np.random.default_rng(7).integers(0, 256, (n, 16), np.uint8)
    features = store.features(_stores.NAME)
    with features.writing() as writer:
        for task in writer.plan(np.concatenate([features.keys, keys])):
            writer.commit(task, BlockResult(task.rows, normal(99, len(task.rows), DIM), None))


def audit(bench: Bench) -> None:
    """Near duplicates with planted copies, against all pairs (a tenth of the rows against all, scaled)."""
    X, source, copy = with_copies(len(bench.X))
    rng = np.random.default_rng(0)
    units = Whitening.fit(X[np.sort(rng.permutation(len(X))[:16_384])]).transform(X)
    tail = Tail.fit(units[rng.permutation(len(X))[:4096]], n_rows=len(X))
    assert tail is not None
    n, threshold = len(X), tail.threshold(1e-5)
    near = NearPairs(units, threshold, tail.threshold(2 / n / (n - 1)))
    begin = time.perf_counter()
    parts = list(near.pairs())
    ours = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in pairs_above(units, threshold, queries=np.arange(0, n, 10)):
        pass
    theirs = (time.perf_counter() - begin) * 10 / 2
    found = np.concatenate([i * n + j for i, j, _ in parts])
    pair = np.minimum(source, copy) * n + np.maximum(source, copy)
    similar = np.einsum("ij,ij->i", units[source], units[copy])
    there = similar >= threshold
    span = f"{np.quantile(similar, 0.01):.2f} to {np.quantile(similar, 0.99):.2f}"
    recall = np.isin(pair[there], found).mean()
    print(f"  {there.sum():,} planted copies above {threshold:.3f} (similarity {span}): recall {recall:.4f}")
    print(f"  it says {near.n_found} of {near.n_certain} sampled, by {near.n_tables} tables")
    report(f"near duplicates of {n:,}, against all pairs", ours, theirs, 5)


def with_copies(n: int) -> tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.int64]]:
    """Return rows with a decaying spectrum and heavy tails, in patients; one in twenty is a changed copy of another."""
    rng = np.random.default_rng(0)
    spectrum = (1 / np.arange(1, DIM + 1) ** 0.7).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    patients = rng.standard_normal((n // 50, DIM)).astype(np.float32)
    order = rng.permutation(n)
    source, copy = order[: n // 20], order[n // 20 : 2 * (n // 20)]
    latent = 0.5 * patients[np.arange(n) // 50 % len(patients)] + rng.standard_t(8, (n, DIM)).astype(np.float32)
    change = rng.uniform(0.2, 0.75, (len(copy), 1)).astype(np.float32)
    noise = rng.standard_normal((len(copy), DIM)).astype(np.float32)
    latent[copy] = latent[source] * np.sqrt(1 - change**2) + change * noise
    return ((latent * spectrum) @ turn).astype(np.float16), source, copy


ROWS: dict[str, Callable[[Bench], None]] = {
    "one": one,
    "many": many,
    "filter": filtered,
    "index": indexed,
    "process": process,
    "update": update,
    "audit": audit,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--store", type=Path)
    asked = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(made(asked.store or Path(folder) / "noise.hw", asked.n))
        for name in asked.rows or list(ROWS):
            ROWS[name](bench)


if __name__ == "__main__":
    main()
