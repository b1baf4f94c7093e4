"""info and verify: what a store holds, and whether it is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.store import Store, open_store


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes
    ----------
    path, n_samples, columns
        Of the store and its samples table.
    features
        For each feature set: items, stored, failed, to do, dim, dtype, tokens, encoder, bytes on disk.
    failed
        For each feature set, why each failed item failed, by its key.
    """

    path: str
    n_samples: int
    columns: list[str]
    features: dict[str, dict[str, Any]]
    failed: dict[str, dict[str, str]]

    def lines(self, *, failed: bool = False) -> list[str]:
        """Say in a few lines what there is; with ``failed``, what failed and why."""
        out = [f"{self.path}: {self.n_samples:,} samples, columns {', '.join(self.columns)}"]
        for name, f in self.features.items():
            rest = "".join(
                f", {f[what]:,} {words}" for what, words in (("failed", "failed"), ("to_do", "to do")) if f[what]
            )
            tokens = "" if f["tokens"] == "none" else f", tokens {f['tokens']}"
            size = f"{f['bytes'] / 1e6:,.1f} MB"
            out.append(f"  {name}: {f['stored']:,} x {f['dim']} {f['dtype']}{tokens}{rest}, {size}, by {f['encoder']}")
            if failed:
                out += [f"    {key}: {why}" for key, why in self.failed[name].items()]
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))


def info(store: str | Path | Store) -> StoreInfo:
    """Say what a store holds."""
    opened = store if isinstance(store, Store) else open_store(store)
    features, failed = {}, {}
    for name in opened.feature_names():
        found = opened.features(name)
        status = found.status
        features[name] = {
            "items": found.n_items,
            "stored": int((status == 1).sum()),
            "failed": int((status == 2).sum()),
            "to_do": int((status == 0).sum()),
            "dim": found.spec.dim,
            "dtype": found.spec.dtype,
            "tokens": found.spec.tokens,
            "encoder": found.spec.encoder,
            "weights": found.spec.weights,
            "bytes": sum(p.stat().st_size for p in found.folder.rglob("*") if p.is_file()),
        }
        failed[name] = {found.keys[row].tobytes().hex(): why for row, why in found.failed.items()}
    there = opened.has_samples()
    return StoreInfo(
        path=str(opened.path),
        n_samples=len(opened.samples) if there else 0,
        columns=opened.samples.columns if there else [],
        features=features,
        failed=failed,
    )


def verify(store: str | Path | Store) -> list[str]:
    """Read every checksum of a store; return a line for each thing that differs, none when all is well."""
    opened = store if isinstance(store, Store) else open_store(store)
    return list(opened.verify())
