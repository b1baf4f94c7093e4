"""What every recipe shares: its options, its data, tiny models, and ``result.json``.

A recipe reproduces one published system. With ``--data DIR`` it runs on the data set itself; with ``--small`` on data
and models that are made on the spot, in half a minute and without a network.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl

import headwater as hw
from headwater.sources import make_histology, make_mammography

ROOT = Path(__file__).resolve().parents[1]
Number = float | str | None
"""A figure as the paper gives it; words where it gives words (``0.95 to 0.96``), None where it gives nothing."""


Differing = Literal["data", "weights", "size", "protocol"]
MAMMOGRAMS = ("mias", "vindr-mammo", "rsna-mammo", "cbis-ddsm")
"""Known data sets of mammograms."""


class Own(msgspec.Struct, forbid_unknown_fields=True):
    """A metric as this recipe measured it: a mean over folds with its standard deviation, or a value on a test set."""

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    n_samples: int | None = None


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """One metric of one run of a recipe, beside what the paper gives.

    Attributes
    ----------
    at
        Which run it is, such as a magnification or an option; empty if there is one.
    metric
        The metric's name in ``metrics.json``.
    published
        What the paper gives.
    own
        What the recipe measured.
    """

    at: str
    metric: str
    published: Number
    own: Own


class Result(msgspec.Struct, forbid_unknown_fields=True):
    """The contents of ``result.json``.

    Attributes
    ----------
    system
        The system's name, ``A1`` to ``D10``.
    title, recipe, command
        What it is; its file; the command that made this result.
    headwater
        The version that did.
    mode
        ``small``, or ``data`` for a real data set.
    data
        The data set's name.
    n_samples, n_groups
        Its images, and its patients (or whatever kept rows together; None where nothing did).
    encoders
        The encoders used, each with where its weights are from.
    rows
        The numbers.
    differs
        How this run differs from the paper: ``data``, ``weights``, ``size``, ``protocol``.
    seconds
        Wall time of the whole recipe.
    """

    system: str
    title: str
    recipe: str
    command: str
    headwater: str
    mode: Literal["small", "data"]
    data: str
    n_samples: int
    n_groups: int | None
    encoders: list[str]
    rows: list[Row]
    differs: dict[Differing, str]
    seconds: float


class Recipe:
    """One published system: reads the options of its script, finds its data and models, and writes its result.

    Parameters
    ----------
    system
        The system's name, such as ``A1``.
    title
        What it is, in a few words.

    Attributes
    ----------
    small : bool
        Whether it runs on data and models that are made on the spot.
    out : Path
        An empty folder for all that it writes.
    kinds : list of str
        The known data sets that `manifest` and `external` returned, or ``synthetic`` for made ones.
    """

    def __init__(self, system: str, title: str) -> None:
        words = argparse.ArgumentParser(description=f"{system}: {title}")
        words.add_argument("--data", type=Path, metavar="DIR", help="the data set's folder, or a manifest")
        words.add_argument("--small", action="store_true", help="run on made data, with tiny models")
        words.add_argument(
            "--external", type=Path, metavar="DIR", help="a second data set, of another place, to test on"
        )
        words.add_argument("--encoder", metavar="SPEC", help="another encoder than the paper's")
        words.add_argument("--weights", metavar="FILE", help="its weights, if they are in a file")
        words.add_argument("--epochs", type=int, metavar="N", help="fewer epochs of tuning than the paper's")
        words.add_argument("--image-size", metavar="PIXELS", help="smaller images than the paper's: PIXELS or HxW")
        words.add_argument("--text-encoder", metavar="SPEC", help="another encoder of texts than the paper's")
        words.add_argument("--out", type=Path, metavar="DIR", help="a new folder for runs and result.json")
        given = words.parse_args()
        if given.small == (given.data is not None):
            words.error("give either --data DIR, the real data set, or --small, made data")
        self.system, self.title, self.small = system, title, bool(given.small)
        self.out: Path = given.out or Path("recipe-runs") / system.lower()
        if self.out.exists() and any(self.out.iterdir()):
            words.error(f"--out {self.out} is not empty: delete it, or give another folder")
        self.out.mkdir(parents=True, exist_ok=True)
        self._given, self._began, self._data = given, time.monotonic(), ""
        self.kinds: list[str] = []
        self._encoders: list[str] = []
        self._instead: dict[str, str] = {}

    @property
    def kind(self) -> str:
        """The first of `kinds`."""
        return self.kinds[0]

    def manifest(self, kind: str | Sequence[str], small: Callable[[Path], Path] | None = None) -> Path:
        """Return the manifest of the data set, or of made data.

        Parameters
        ----------
        kind
            The known data set, one of ``headwater manifest``; or several, of which the folder's is taken. A folder that
            has a ``manifest.csv`` is taken as it is.
        small
            Makes data in a folder and returns the manifest; synthetic histology by default.
        """
        given: Path | None = self._given.data
        if given is None:
            self.kinds.append("synthetic")
            of_mammograms = (kind if isinstance(kind, str) else kind[0]) in MAMMOGRAMS
            self._data = "synthetic mammograms" if of_mammograms else "synthetic histology"
            return (small or histology)(self.out / "data")
        self._data = given.resolve().parent.name if given.is_file() else given.resolve().name
        return self._table(kind, given, "manifest.parquet")

    def beside(self, name: str) -> Path | None:
        """Return a file of this name in the folder of the data, such as ``merge.csv``; None if there is none."""
        given: Path | None = self._given.data
        folder = self.out / "data" if given is None else given.parent if given.is_file() else given
        return folder / name if (folder / name).is_file() else None

    def external(
        self, kind: str | Sequence[str], small: Callable[[Path], Path], *, required: bool = False
    ) -> Path | None:
        """Return the manifest of a second data set, or of made data; None if ``--external`` was not given.

        Parameters
        ----------
        kind
            As in `manifest`.
        small
            Makes data in a folder and returns the manifest.
        required
            Whether to end the program if ``--external`` was not given.
        """
        if self.small:
            self.kinds.append("synthetic")
            return small(self.out / "external")
        given: Path | None = self._given.external
        if given is None and required:
            raise SystemExit(f"{self.system} needs two data sets: give the other one by --external DIR")
        return None if given is None else self._table(kind, given, "external.parquet")

    def _table(self, kinds: str | Sequence[str], given: Path, name: str) -> Path:
        kind = _kind_of(given, kinds)
        self.kinds.append(kind)
        found = given if given.is_file() else given / "manifest.csv"
        if found.is_file():
            return found
        made: Path = hw.manifest(kind, given, out=self.out / name).path
        return made

    def encoder(
        self, published: str, small: str, *, reads: Literal["image", "text"] = "image", **options: Any
    ) -> hw.EncoderChoice:
        """Return the paper's encoder, the one of ``--encoder``, or a tiny model saved to disk.

        Parameters
        ----------
        published
            The spec of the paper's encoder, whose weights are fetched or in the cache.
        small
            A built-in encoder, or the name of a tiny model; see `tiny`.
        reads
            What it encodes: ``--text-encoder`` replaces those of texts, ``--encoder`` all others.
        options
            Other fields of `headwater.EncoderChoice`.
        """
        if self.small:
            spec, says = (
                (small, small)
                if ":" in small
                else (tiny(small, self.out / "models"), f"{small}, tiny{'' if small in OF_CLIP else ', untrained'}")
            )
        else:
            spec = (self._given.encoder if reads == "image" else self._given.text_encoder) or published
            says = spec
            if self._given.weights and reads == "image":
                options["weights"] = self._given.weights
                says += f" ({Path(self._given.weights).name})"
            if spec != published:
                self._instead[published] = says
        if says not in self._encoders:
            self._encoders.append(says)
        return hw.EncoderChoice(spec, **options)

    def encoders(
        self, published: Mapping[str, str], small: Mapping[str, str], **options: Any
    ) -> dict[str, hw.EncoderChoice]:
        """Return several encoders by name: those of the comparison, the one of ``--encoder``, or small ones."""
        if self._given.encoder:
            return {self._given.encoder: self.encoder(next(iter(published.values())), "", **options)}
        if self.small:
            return {name: self.encoder("", one, **options) for name, one in small.items()}
        return {name: self.encoder(one, "", **options) for name, one in published.items()}

    def epochs(self, published: int, small: int) -> int:
        """Return the paper's number of epochs, that of ``--epochs``, or that of the small run."""
        return small if self.small else self._given.epochs or published

    def image_size(self, published: int | str | None = None) -> int | str | None:
        """Return the size of the images in pixels, as in the paper or by ``--image-size``; None for the encoder's."""
        given: str | None = None if self.small else self._given.image_size
        return given or published

    @property
    def seconds(self) -> float:
        """Seconds since the recipe began."""
        return time.monotonic() - self._began

    def write(
        self,
        runs: Mapping[str, Any],
        published: Mapping[str, Mapping[str, Number]],
        *,
        metrics: Sequence[str] = (),
        differs: Mapping[Differing, str],
        on_data: Mapping[Differing, str] | None = None,
    ) -> Result:
        """Write ``result.json``: each metric that the paper gives, as published and as measured here.

        Parameters
        ----------
        runs
            Runs, or what `headwater.evaluate` returned, each by what it is (``40x``, ``BACH``; empty for the only one).
            A pair of a run and a value of its ``by`` column stands for these samples alone.
        published
            The paper's figures, by run and metric.
        metrics
            Metrics to write for every run, also those that the paper does not give. The table of all recipes shows the
            published ones, or the first of these where a paper gives none.
        differs
            How the small run differs from the paper.
        on_data
            How the run on a real data set differs from the paper. Another data set, another encoder, fewer epochs and
            smaller images, as given by options, are said without it.
        """
        rows = []
        for at, run in runs.items():
            given = published.get(at, {})
            for metric in dict.fromkeys([*given, *metrics]):
                rows.append(Row(at, metric, given.get(metric), _own(run, metric)))
        tested = [(run[0] if isinstance(run, tuple) else run).predictions for run in runs.values()]
        groups = {g for table in tested if "group" in table.columns for g in table["group"]}
        words = dict(differs) if self.small else {**self._differs(), **(on_data or {})}
        result = Result(
            system=self.system,
            title=self.title,
            recipe=f"recipes/{Path(sys.argv[0]).name}",
            command=self._command(),
            headwater=hw.__version__,
            mode="small" if self.small else "data",
            data=self._data,
            n_samples=len({sample for table in tested for sample in table["id"]}),
            n_groups=len(groups) or None,
            encoders=self._encoders,
            rows=rows,
            differs=words,
            seconds=round(self.seconds, 1),
        )
        (self.out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
        for row in rows:
            says = "" if row.published is None else f"   published {row.published}"
            print(f"{self.system} {row.at:>12} {row.metric:<24} {_shown(row.own)}{says}")
        print(f"{self.out / 'result.json'} after {result.seconds:.0f} s")
        return result

    def _differs(self) -> dict[Differing, str]:
        """Return what the options of a run on real data change."""
        words: dict[Differing, str] = {"data": self._data}
        if self._instead:
            words["weights"] = "; ".join(f"{says} instead of {name}" for name, says in self._instead.items())
            if "builtin:clip" in self._instead.values():
                words["weights"] += "; builtin:clip is a demonstration model that saw synthetic histology alone"
        sizes = [f"{self._given.epochs} epoch{'s' * (self._given.epochs > 1)}"] if self._given.epochs else []
        sizes += [f"images of {self._given.image_size} pixels"] if self._given.image_size else []
        if sizes:
            words["size"] = ", ".join(sizes)
        return words

    def _command(self) -> str:
        """Return the command without folders of this machine."""
        words = ["python", f"recipes/{Path(sys.argv[0]).name}"]
        if self.small:
            words.append("--small")
        else:
            words += ["--data", self._data]
            if self._given.external:
                words += ["--external", self._given.external.resolve().name]
        for name in ("encoder", "weights", "text_encoder", "epochs", "image_size"):
            value = getattr(self._given, name)
            if value:
                words += [f"--{name.replace('_', '-')}", Path(value).name if name == "weights" else str(value)]
        return shlex.join(words)


def histology(folder: Path, **options: Any) -> Path:
    """Make synthetic histology: 192 images of 24 patients at four magnifications, with captions."""
    return make_histology(folder, **{"images_per_patient": 8, "size": 64, **options})


SUSPICIOUS = (
    *("irregular", "pleomorphic", "several", "frequent", "infiltrating", "ragged"),
    *("loss", "crowded", "coarse", "prominent", "desmoplastic", "lymphocytes"),
)
"""Words of the captions of synthetic histology, one for each finding that suggests malignancy."""


def multilabel_histology(folder: Path, **options: Any) -> Path:
    """Make synthetic histology with several labels, in the columns of Quilt-1M: 240 image-caption pairs of 120 videos.

    ``pathology`` holds exactly three of 14 labels: the lesion's kind, which the image shows; benign or malignant, which
    image and caption show in part; and how many of the caption's three findings are suspicious. One kind is spelled in
    two ways, which ``merge.csv`` unites. One pair has no caption, and one no corrected text.

    Parameters
    ----------
    folder
        Where to write; a patient stands for a video.
    options
        Arguments of `headwater.sources.make_histology`.
    """
    made = make_histology(
        folder, **{"n_patients": 120, "images_per_patient": 2, "magnifications": (100, 200), "size": 64, **options}
    )
    rng, rows = np.random.default_rng(0), []
    for row in pl.read_csv(made).to_dicts():
        words = row["caption"].lower()
        n = ("no", "one", "two", "three")[sum(word in words for word in SUSPICIOUS)]
        kind = row["subtype"].replace("tumor", str(rng.choice(["tumor", "tumour"])))
        labels = f"{kind}; {row['label']}; {n} suspicious finding{'s' * (n not in ('one',))}"
        texts = {"text": row["caption"], "corrected_text": row["caption"]}
        rows.append({"id": row["id"], "image": row["image"], **texts, "video": row["patient"], "pathology": labels})
    rows[2]["text"] = rows[5]["corrected_text"] = None
    pl.DataFrame(rows).write_csv(made)
    (folder / "merge.csv").write_text("from,to\nphyllodes tumour,phyllodes tumor\n")
    return made


def mammography(folder: Path, **options: Any) -> Path:
    """Make synthetic mammograms with metadata: 240 images of 60 patients."""
    return make_mammography(folder, **options)


def small_mammography(folder: Path, **options: Any) -> Path:
    """Make small synthetic mammograms with metadata: 400 images of 100 patients, 192 x 128 pixels."""
    return make_mammography(folder, **{"n_patients": 100, "height": 192, "width": 128, **options})


OF_CLIP = {"clip-convnext": "vision_model", "clip-bert": "text_model"}
"""The encoders within ``builtin:clip``: a ConvNeXt of images and a BERT of texts, trained on synthetic histology."""


def tiny(name: str, folder: Path) -> str:
    """Save a tiny model and return its spec.

    Parameters
    ----------
    name
        A member of ``tests/models``, such as ``hf-qwen2_vl``, which is untrained; or one of the two encoders within
        ``builtin:clip``, ``clip-convnext`` or ``clip-bert``.
    folder
        Where models are saved, each in a folder of its own.
    """
    import torch

    if name in OF_CLIP:
        return _of_clip(name, folder / name)

    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from tests.models import MEMBERS

    torch.manual_seed(0)
    place = folder / name
    place.mkdir(parents=True)
    spec: str = MEMBERS[name](place).spec
    return spec


def _of_clip(name: str, folder: Path) -> str:
    """Save one of the two encoders within ``builtin:clip`` as a model of its own."""
    from transformers import AutoImageProcessor, AutoTokenizer, VisionTextDualEncoderModel

    source = Path(hw.__file__).parent / "embed" / "clip"
    both = VisionTextDualEncoderModel.from_pretrained(source).float()
    getattr(both, OF_CLIP[name]).save_pretrained(folder)
    reader: Any = AutoImageProcessor if name == "clip-convnext" else AutoTokenizer
    reader.from_pretrained(source).save_pretrained(folder)
    return f"hf:{folder}"


def _kind_of(given: Path, kinds: str | Sequence[str]) -> str:
    """Return the only kind, or the one of several that the files of a folder look like."""
    from headwater.sources.known import Files, seems_to_be

    if isinstance(kinds, str):
        return kinds
    found = seems_to_be(Files.below(given.parent if given.is_file() else given))
    if found not in kinds:
        raise SystemExit(f"{given} looks like none of {', '.join(kinds)}")
    return found


def _own(run: Any, metric: str) -> Own:
    metrics = run[0].metrics["by"]["levels"][run[1]] if isinstance(run, tuple) else run.metrics
    value = metrics["mean"][metric]
    if value is None:
        raise SystemExit(f"{metric} has no value in this run")
    low, high = (metrics.get("intervals") or {}).get(metric) or (None, None)
    return Own(value, low, high, (metrics.get("std") or {}).get(metric), metrics["n_samples"])


def _shown(own: Own) -> str:
    between = "" if own.low is None or own.high is None else f" [{own.low:.3f}, {own.high:.3f}]"
    return f"{own.value:.3f}{between}"
