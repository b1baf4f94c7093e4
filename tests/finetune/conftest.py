"""A small manifest whose labels can be seen, and read."""

import numpy as np
import polars as pl
import pytest
from PIL import Image

N = 48


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """Return a manifest of 48 images of 24 patients: benign ones are smooth, malignant ones rough, with a text each."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(N):
        rough = (i // 2) % 2
        side = 16 if rough else 4
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        rows.append(
            {
                "id": f"case-{i}",
                "image": f"{i}.png",
                # one in eight says the other: a word that tells the label almost always would be refused
                "text": f"a {'severe' if rough and i % 8 != 7 else 'benign'} gland" + (" left" if i % 3 else ""),
                "label": "malignant" if rough else "benign",
                "labels": ";".join(name for name, on in (("rough", rough), ("left", i % 3 > 0)) if on) or "none",
                "patient": f"p{i // 2}",
                "slide": f"s{i // 4}",
                "slide_label": "mixed" if (i // 4) % 2 else "other",
                "age": 40 + i,
            }
        )
    pl.DataFrame(rows).write_csv(folder / "cases.csv")
    return folder / "cases.csv"
