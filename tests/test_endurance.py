"""What takes minutes: a real encoder with image and ragged text tokens, killed again and again."""

import random
import subprocess
import sys
import time

import polars as pl
import pytest

from headwater.api import verify

N_ITEMS = 800
KILLS = 12


def files(store):
    folder = store / "features.zarr"
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def recorded(store):
    """How many lines the journals of a store have: of plans and of finished blocks."""
    return sum(path.read_bytes().count(b"\n") for path in store.glob("journal/**/*.jsonl"))


@pytest.mark.slow
def test_tokens_survive_being_killed_a_dozen_times(tiny, picture, tmp_path):
    """Killed between lines of its journal, a run over images and texts with tokens ends in the bytes of a whole one."""
    words = [
        "the",
        "left",
        "breast",
        "with",
        "severe",
        "mass",
        "of",
        "malignant",
        "tissue",
        "a",
        "benign",
        "gland",
        "right",
    ]
    chance = random.Random(0)
    rows = [
        {
            "image": picture(tmp_path / f"{i}.png", i).name,
            "text": " ".join(chance.choices(words, k=1 + i % 17)) + f" {i}",
        }
        for i in range(N_ITEMS)
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "manifest.csv")

    def start(store):
        line = [sys.executable, "-m", "headwater", "embed", tmp_path / "manifest.csv", store]
        line += ["--encoder", tiny("open_clip").spec, "--name", "clip", "--tokens", "all"]
        with (tmp_path / "err").open("wb") as err:
            return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=err)

    whole, store = tmp_path / "whole.hw", tmp_path / "killed.hw"
    assert start(whole).wait() == 0
    lost = 0
    for _ in range(KILLS):
        before, wanted = recorded(store), chance.choice((0, 1, 1, 2))
        process = start(store)
        while process.poll() is None and recorded(store) < before + wanted:
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.1 if wanted else 3.0))
        process.kill()
        lost += process.wait() < 0
    assert lost >= KILLS // 3
    assert start(store).wait() == 0, (tmp_path / "err").read_text()
    assert files(store) == files(whole)
    assert verify(store) == []
