"""An epoch of a co-attention head over 5,000 x 64 image tokens and 32 text tokens: from a store, from ``.pt`` files a
sample read by a DataLoader, and from tensors in memory. The data path of all rows, then whole epochs of the same module
over 1,000 of them.

python benchmarks/token_epoch.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import best, machine, report

from headwater.heads import CoAttention
from headwater.heads._token_training import Reader, ahead
from headwater.store import BlockResult, FeatureSpec, create_store

N, N_TRAINED, IMAGE, TEXT, BATCH = 5_000, 1_000, (64, 768), (32, 768), 64


class PtFiles(torch.utils.data.Dataset):
    """One file a sample, as most published code has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        item = torch.load(self.folder / f"{i}.pt", weights_only=True)
        return item["image"], item["text"]


class FromFiles:
    """Files behind the interface of token inputs, so that the same module trains from them."""

    def __init__(self, folder: Path, part: str, shape: tuple[int, int]) -> None:
        self.folder, self.part, self.shape, self.dtype = folder, part, (N, *shape), np.dtype(np.float16)

    def __len__(self) -> int:
        return N

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.stack([torch.load(self.folder / f"{i}.pt", weights_only=True)[self.part].numpy() for i in rows])


def main() -> None:
    print(machine())
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal((N, *shape), np.float32).astype(np.float16)
        for name, shape in (("image", IMAGE), ("text", TEXT))
    }
    y = (arrays["image"][:, 0, 0] * arrays["text"][:, 0, 0] > 0).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        stored = {name: _stored(Path(folder), name, values) for name, values in arrays.items()}
        files = Path(folder) / "pt"
        files.mkdir()
        for i in range(N):
            torch.save({name: torch.from_numpy(values[i].copy()) for name, values in arrays.items()}, files / f"{i}.pt")

        read = Reader(list(stored.values()), "cpu", may_miss=True)

        def ours() -> None:
            order = np.array_split(np.random.default_rng(0).permutation(N), N // BATCH)
            for _ in ahead(read, order):
                pass

        def theirs(workers: int) -> None:
            loader = torch.utils.data.DataLoader(PtFiles(files), BATCH, shuffle=True, num_workers=workers)
            for _ in loader:
                pass

        first = best(ours, 1)  # in which each row is looked through for what is not finite
        path = best(ours, 3)
        print(f"first epoch, every row checked {first:.2f} s, later ones {path:.2f} s")
        report("data path of an epoch, .pt files through a DataLoader", path, best(lambda: theirs(0), 2), 10)
        report("the same, DataLoader with 2 workers", path, best(lambda: theirs(2), 2), None)

        def epoch(X: dict[str, Any]) -> None:
            CoAttention(epochs=1, warmup=0.5, patience=None, batch_size=BATCH).fit_many(
                X, y, [(np.arange(N_TRAINED), {})]
            )

        from_store, in_memory = best(lambda: epoch(stored), 2), best(lambda: epoch(arrays), 2)
        slow = {name: FromFiles(files, name, shape) for name, shape in (("image", IMAGE), ("text", TEXT))}
        report(
            "a whole epoch of 1,000, the same module fed from .pt files", from_store, best(lambda: epoch(slow), 1), None
        )
        report("a whole epoch of 1,000, tensors in memory (1.2 times as long: 0.83x)", from_store, in_memory, 0.83)


def _stored(folder: Path, name: str, values: np.ndarray) -> Any:
    _, t, d = values.shape
    spec = FeatureSpec(encoder="stub:8", modality="image", dim=8, tokens="all", n_tokens=t, token_dim=d)
    features = create_store(folder / f"{name}.hw").require_features("f/image", spec, N)
    with features.writing() as writer:
        for task in writer.plan(np.random.default_rng(0).integers(0, 256, (N, 16), np.uint8)):
            writer.commit(task, BlockResult(task.rows, np.zeros((len(task.rows), 8), np.float16), values[task.rows]))
    return features.refresh().tokens


if __name__ == "__main__":
    main()
