"""predict: what a run's saved head says of new cases, which need no label, no store and no id."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._checks import require_whole
from headwater._devices import Device, require_device
from headwater._progress import Progress, progress_to
from headwater._shown import Shown
from headwater._words import aligned, counted, cut
from headwater._writable import require_writable
from headwater.api._table_files import table_file, write_table
from headwater.api.embed import fill_as_planned
from headwater.embed.choice import Execution
from headwater.embed.items import SHOWN
from headwater.embed.plan import ManifestColumns, Storage, plan_embedding
from headwater.errors import InputError
from headwater.experiment.apply import IMPORTED, SavedHead, is_tuned, name_of, specs_of
from headwater.experiment.encoders import RunEncoder, Weights, encoders_of
from headwater.experiment.predict import Predictor, threshold_words
from headwater.finetune.reading import read_samples
from headwater.heads.base import on_device
from headwater.runs.bundle import is_bundle, open_bundle
from headwater.runs.foreign import reads_runs
from headwater.runs.run import Run, open_run
from headwater.samples.columns import require_column
from headwater.samples.inputs import read_inputs
from headwater.samples.slide_maps import require_same_slides, slide_map, tiles_in
from headwater.samples.vectors import joined
from headwater.sources import IMAGE_SUFFIXES, Manifest, images_below, is_dicom_file, require_utf8_names
from headwater.sources.slides import Tile
from headwater.store import PARTS, Store, is_url, open_store

Files = str | Path | Sequence[str | Path]
MOST = 20  # printed cases
CASE = "case"
SHORT = {"nearest_labels": "nearest", "unlike_training": "unlike", "seen_in_training": "seen"}
MOST_MAPS = 8  # classes whose scores are drawn over each slide
UNUSUAL = 95  # percentile from which a case is printed as unlike the training data


@dataclass(frozen=True, eq=False, repr=False)
class Predicted(Shown):
    """Predictions of new cases.

    Attributes
    ----------
    run
        The run.
    task
        Its task.
    table
        A row for each case; see `headwater.experiment.predict.Predictor.predict`.
    rule
        In words, what the column ``decision`` follows; None if the run has no threshold.
    left_out
        Columns ``id`` and ``reason``: cases without a prediction.
    notes
        What is unknown, and why.
    heat_maps
        For each case, the file of its heat map, if any were drawn.
    path
        The file that was written; None if none was.
    """

    run: str
    task: str
    table: pl.DataFrame
    rule: str | None
    left_out: pl.DataFrame
    notes: Sequence[str] = ()
    heat_maps: Mapping[str, Path] = field(default_factory=dict)
    path: Path | None = None

    def lines(self) -> list[str]:
        """Return the predictions in a table of a few lines."""
        out = aligned(_cells(self.table.head(MOST)))
        if len(self.table) > MOST:
            out.append(f"… and {len(self.table) - MOST:,} more")
        if self.rule is not None:
            out.append(f"decision: {self.rule}")
        if "unlike_training" in self.table.columns and len(self.table):
            unusual = int((self.table["unlike_training"] > UNUSUAL).sum())
            if unusual:
                out.append(
                    f"{counted(unusual, 'case')} farther from the training data than {UNUSUAL} % of left-out training "
                    "cases: trust these predictions less"
                )
        if "seen_in_training" in self.table.columns and (seen := len(self.table["seen_in_training"].drop_nulls())):
            out.append(f"{counted(seen, 'case')} seen in training: predictions of these are no test of the head")
        for id, why in self.left_out.head(SHOWN).iter_rows():
            out.append(f"left out: {id} ({why})")
        if len(self.left_out) > SHOWN:
            out.append(f"… and {len(self.left_out) - SHOWN:,} more left out")
        out += [f"note: {line}" for line in self.notes]
        if self.heat_maps:
            out.append(f"{counted(len(self.heat_maps), 'heat map')} in {next(iter(self.heat_maps.values())).parent}")
        return [*out, f"predictions in {self.path}" if self.path else "nothing written; --out FILE keeps predictions"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "run": self.run,
            "task": self.task,
            "rule": self.rule,
            "cases": [_nested(row) for row in self.table.to_dicts()],
            "left_out": dict(self.left_out.iter_rows()),
            "notes": list(self.notes),
            "heat_maps": {id: str(path) for id, path in self.heat_maps.items()},
        }


@reads_runs
def predict(
    run: str | Path | Run,
    cases: Files | Store | None = None,
    *,
    image: Files = (),
    text: str | Sequence[str] = (),
    features: str | Sequence[str] | None = None,
    where: str | None = None,
    columns: ManifestColumns | None = None,
    weights: Weights = None,
    device: Device = "auto",
    batch_size: int = 32,
    workers: int | None = None,
    trust_remote_code: bool = False,
    heat_maps: str | Path | None = None,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> Predicted:
    """Predict new cases with a run's saved head.

    Images and texts are encoded by the very encoder that made the run's features, and are not kept.

    Parameters
    ----------
    run
        A run of `fit_head`, `fine_tune` or `zero_shot`, or its path; or a bundle of one.
    cases
        A manifest; a folder of images; an image file or several; or a store that holds the run's features of the new
        cases.
    image, text
        Image files and texts instead of ``cases``. With both, the text belongs to each image, or each text to the image
        of the same place. If the run's rows are bags of images, all of these are one bag.
    features
        The feature sets of a store, in the run's order, if they have other names than in the run.
    where
        A boolean SQL expression over the columns of the cases: only these are predicted.
    columns
        The columns of a manifest that hold images, texts and ids. Default: found by name.
    weights
        A file of the encoder's weights, if that recorded by the run's store has moved; with several encoders a mapping
        from the name of their features to a file.
    device
        Where to encode and to predict: ``cpu``, ``cuda`` or ``auto``.
    batch_size, workers
        Items encoded together, and threads that read files.
    trust_remote_code
        Allow code that comes with a model, or that the run names, to run with all your rights.
    heat_maps
        A folder, for the heat map of each image or bag, for runs that `headwater.explain` can explain. If the cases are
        tiles of slides and not in bags, their scores are drawn over each slide instead, for any run.
    out
        A file to write, ``.csv`` or ``.parquet``.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.

    Returns
    -------
    Predicted

    Raises
    ------
    InputError, SpecMismatch, EncoderError, HeadError, ManifestError, ImageError, StoreError
        Each with one line that says what, where and what to do.
    """
    say = progress_to(progress)
    path = None if out is None else table_file(out)
    drawn = None if heat_maps is None else require_writable(heat_maps, "--heat-maps")
    require_device(device)  # refuses a GPU that is not there, before anything is read
    require_whole("--batch-size", batch_size, 1)
    execution = Execution(device=device, batch_size=batch_size, workers=workers)
    with ExitStack() as stack:
        fitted = _opened(run, stack)
        fitted = replace(fitted, head=on_device(fitted.head, device))
        _refuse(fitted, cases, image, text)
        predictor = Predictor.of(fitted, say)
        store, frozen = _as_store(cases), None
        if store is None:
            if features is not None:
                raise InputError(
                    "--features is for a store; those of new files are called as in the run. Leave it out."
                )
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-")))
            manifest, columns = _manifest_of(fitted, cases, _listed(image), _words(text), columns, where, folder)
            encoders = encoders_of(fitted, weights, trust_remote_code=trust_remote_code)
            columns = columns or ManifestColumns()
            store = _embedded(fitted, encoders, manifest, columns, execution, folder / "cases.hw", say)
            if is_tuned(fitted) and fitted.reference is not None:
                before = [encoder.frozen for encoder in encoders]
                frozen = _embedded(fitted, before, manifest, columns, execution, folder / "frozen.hw", say)
        saved = SavedHead.on(fitted, store, features)
        for option, column in (("--bags of the run", saved.what.bags), ("--views of the run", saved.what.views)):
            if column is not None:
                require_column(store, column, option)
        data = read_inputs(store, saved.what, where)
        if len(data.ids) == 0:
            why = next(iter(data.left_out["reason"].to_list()), "none passes --where")
            raise InputError(f"no case can be predicted: {why}.")
        say(f"{counted(len(data.ids), 'case')} to predict")
        vectors = None if frozen is None else _vectors_before(saved, frozen, data.ids)
        table = predictor.predict(saved, store, data, where, vectors)
        drawings = {} if drawn is None else _draw(fitted, store, table, drawn)
    notes = list(predictor.past.why_unknown)
    if fitted.head.transductive:
        notes.append("this head predicts cases together: the prediction of one depends on the others")
    if any(spec.encoder.startswith(IMPORTED) for spec in specs_of(fitted).values()):
        notes.append("the features were imported: make sure that the same encoder made those of these cases")
    left_out = data.left_out.select(pl.all().cast(pl.String))
    found = Predicted(name_of(fitted), saved.task, table, threshold_words(fitted), left_out, notes, drawings, path)
    if path is not None:
        write_table(table, path)
    return found


def _opened(run: str | Path | Run, stack: ExitStack) -> Run:
    """Return a run, or what a bundle holds of one, unpacked until the end."""
    if isinstance(run, Run):
        return run
    if not is_bundle(run):
        return open_run(run)
    return open_bundle(run, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-"))))


def _refuse(run: Run, cases: Any, image: Any, text: Any) -> None:
    """Refuse runs that have no head for new cases, and cases given twice or not at all."""
    if run.config["command"] == "contrast":
        raise InputError(
            f"{name_of(run)} trained an encoder without a head: fit one on its features, and predict with that."
        )
    if run.config["command"] == "evaluate":
        raise InputError(f"{name_of(run)} is an evaluation. Pass the run that it evaluates: {run.config['run']}.")
    given = bool(_listed(image)) or bool(_words(text))
    if cases is None and not given:
        raise InputError("no cases: pass a manifest, a folder of images or a store, or --image FILE, or --text WORDS.")
    if cases is not None and given:
        raise InputError("pass either a manifest, folder or store, or --image and --text.")


# Cases


def _as_store(cases: Any) -> Store | None:
    """Return the store that the cases are, if they are one."""
    if isinstance(cases, Store):
        return cases
    if not isinstance(cases, str | Path):
        return None
    return open_store(cases) if is_url(str(cases)) or (Path(cases) / "store.json").exists() else None


def _listed(files: Files) -> list[Path]:
    return [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]


def _words(text: str | Sequence[str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def _manifest_of(
    run: Run,
    cases: Any,
    images: Sequence[Path],
    texts: Sequence[str],
    columns: ManifestColumns | None,
    where: str | None,
    folder: Path,
) -> tuple[Path, ManifestColumns | None]:
    """Return a manifest of the cases, and its columns; one is written where only files and texts were given."""
    if isinstance(cases, str | Path) and not (Path(cases).suffix.lower() in IMAGE_SUFFIXES or is_dicom_file(cases)):
        if not Path(cases).is_dir():
            return _chosen(Path(cases), columns or ManifestColumns(), where, folder)
        root = Path(cases)
        images = images_below(root)
        ids = [image.relative_to(root).as_posix() for image in images]
    else:
        if cases is not None:
            images = _listed(cases)
        names = [image.name for image in images]
        ids = names if len(set(names)) == len(names) else [str(image) for image in images]
    for image in images:
        if not image.is_file():
            raise InputError(f"{image}: no such image file.")
    require_utf8_names([image.name for image in images], Path("--image"))
    if columns is not None:
        raise InputError("--image-column, --text-column and --id-column are for a manifest. Leave them out.")
    if images and texts and len(texts) not in (1, len(images)):
        raise InputError(
            f"--text was given {len(texts)} times beside {counted(len(images), 'image')}: give one text for all, or "
            "one for each."
        )
    n = len(images) or len(texts)
    table: dict[str, Any] = {"id": ids if images else [f"text {i + 1}" for i in range(n)]}
    if len(set(table["id"])) < n:
        raise InputError("an image is named twice. Name each once.")
    if images:
        table["image"] = [str(image.absolute()) for image in images]
    if texts:
        table["text"] = list(texts) * n if len(texts) == 1 else list(texts)
    if bags := run.config.get("bags"):
        table[bags] = [CASE] * n
    written = folder / "cases.parquet"
    pl.DataFrame(table).write_parquet(written)
    return written, None


def _chosen(path: Path, columns: ManifestColumns, where: str | None, folder: Path) -> tuple[Path, ManifestColumns]:
    """Return a manifest with the rows that ``where`` selects, so that no other is encoded."""
    if where is None:
        return path, columns
    manifest, chosen = read_samples(path, columns, where)
    table = chosen.samples
    if manifest.image is not None:
        table = table.with_columns(replace(manifest, table=table).image_places().alias(manifest.image))
    written = folder / "chosen.parquet"
    table.write_parquet(written)
    return written, ManifestColumns(manifest.image, manifest.text, manifest.id)


def _embedded(
    run: Run,
    encoders: Sequence[RunEncoder],
    manifest: Path,
    columns: ManifestColumns,
    execution: Execution,
    place: Path,
    say: Progress,
) -> Store:
    """Encode new cases into a temporary store, with the run's own encoders."""
    there = columns.read(manifest)
    for encoder in encoders:
        _require_columns(there, encoder)
        spec = next(iter(encoder.specs.values()))
        plan = plan_embedding(
            manifest,
            place,
            encoder.choice,
            Storage(encoder.base, spec.dtype, spec.tokens_dtype),
            columns,
            replace(execution, precision=encoder.precision),
            progress=say,
            named_by=f"the run {name_of(run)}",
        )
        encoder.require_same(run, {modality: plan.features[modality].spec for modality in encoder.specs})
        needed = replace(plan, features={modality: plan.features[modality] for modality in encoder.specs})
        made = fill_as_planned(needed, place, encoder.choice, execution, say, kept=False)
        if made.n_failed == made.n_samples:
            id, why = next((id, why) for failed in made.failed.values() for id, why in failed.items())
            raise InputError(f"no case can be predicted, since none can be read, such as {id}: {why}.")
    return open_store(place)


def _vectors_before(saved: SavedHead, store: Store, ids: NDArray[np.str_]) -> NDArray[np.float32]:
    """Return the vectors of cases by the encoders as they were before training, in the order of ``ids``."""
    data = read_inputs(store, saved.what, None)
    place = {id: row for row, id in enumerate(data.ids.tolist())}
    return joined(data.inputs, data.present)[[place[id] for id in ids.tolist()]]


def _require_columns(cases: Manifest, encoder: RunEncoder) -> None:
    """Refuse cases without the images or texts that an encoder reads."""
    columns = {"image": cases.image, "text": cases.text}
    for part in (part for modality in encoder.specs for part in PARTS[modality]):
        if columns[part] is None:
            raise InputError(
                f"the run reads {part}s, but the cases have none: pass --{part}, or a manifest with such a column."
            )


def _draw(run: Run, store: Store, table: pl.DataFrame, folder: Path) -> dict[str, Path]:
    """Draw the heat map of each case; of tiles, those of their scores over each slide."""
    from headwater.api.explain import explain

    if folder.exists() and not folder.is_dir():
        raise InputError(f"--heat-maps {folder} is a file. Give a folder.")
    ids = table["id"].to_list()
    if not run.config.get("bags") and (tiles := tiles_in(store)) is not None:
        return _draw_slides(run, store, table, tiles, folder)
    found = {}
    for number, id in enumerate(ids, start=1):
        file = folder / f"{number:0{len(str(len(ids)))}d}-{_file_name(id)}.png"
        explain(run, id=id, store=store, out=file)
        found[id] = file
    return found


def _file_name(id: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(id).name)[:80] or "case"


def _draw_slides(
    run: Run, store: Store, table: pl.DataFrame, tiles: Mapping[str, Tile], folder: Path
) -> dict[str, Path]:
    """Draw the scores of tiles over each slide: of the last of two classes, or of each class or output."""
    columns = [name for name in table.columns if name.startswith("score_")]
    columns = columns or [name for name, dtype in table.schema.items() if dtype.is_float()][:1]
    columns = columns[1:] if len(columns) == 2 and run.metrics["task"] == "binary" else columns[:MOST_MAPS]
    of_slide: dict[Path, list[int]] = {}
    ids = [str(id) for id in table["id"]]
    for row, id in enumerate(ids):
        if id in tiles:
            of_slide.setdefault(tiles[id].slide, []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, (slide, rows) in enumerate(of_slide.items(), start=1):
        drawn = [tiles[ids[row]] for row in rows]
        require_same_slides(store, [ids[row] for row in rows], drawn)
        for column in columns:
            values = table[column].to_numpy()
            low, high = (0.0, 1.0) if column.startswith("score_") else (values.min(), values.max())
            signed = 2 * (values[rows] - low) / max(high - low, 1e-12) - 1
            end = "" if len(columns) == 1 else f"-{_file_name(column.removeprefix('score_'))}"
            file = folder / f"{number:0{len(str(len(of_slide)))}d}-{_file_name(slide.stem)}{end}.png"
            slide_map(drawn, signed).save(file)
            found[f"{slide}{end}"] = file
    return found


# Output


def _cells(table: pl.DataFrame) -> list[list[str]]:
    """Return a table to print: the likeliest class with its probability, and what tells how far to trust it."""
    scores = [name for name in table.columns if name.startswith("score_")]
    shown = [name for name in table.columns if name not in (*scores, "nearest", "nearest_cosines")]
    several = "findings" in table.columns
    head = [
        {"nearest_labels": "nearest", "unlike_training": "unlike", "seen_in_training": "seen"}.get(c, c) for c in shown
    ]
    rows = [[*head[:2], *(["p"] if scores and not several else []), *head[2:]]]
    for row in table.to_dicts():
        cells = [_cell(name, row, scores) for name in shown]
        p = max((row[name] for name in scores), default=None)
        rows.append([*cells[:2], *([f"{p:.3f}"] if p is not None and not several else []), *cells[2:]])
    return rows


def _cell(name: str, row: Mapping[str, Any], scores: Sequence[str]) -> str:
    value = row[name]
    if name == "unlike_training":
        return f"{value:.0f} %"
    if name == "nearest_labels":
        return cut(", ".join(f"{n} {label}" for label, n in Counter(value).most_common()), 40)
    if name == "findings":
        return cut(", ".join(f"{word} {row[f'score_{word}']:.2f}" for word in value[:5]), 60)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return cut(", ".join(map(str, value)) or "–", 40)
    return "" if value is None else cut(str(value), 40)


def _nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a case as JSON, with the scores by class and the nearest cases as a list."""
    scores = {name.removeprefix("score_"): value for name, value in row.items() if name.startswith("score_")}
    out = {name: v for name, v in row.items() if not name.startswith(("score_", "nearest"))}
    if scores:
        out["scores"] = scores
    if "findings" in out:
        out["findings"] = [{"label": word, "score": scores[word]} for word in out["findings"]]
    if "nearest" in row:
        parts = zip(row["nearest"], row["nearest_labels"], row["nearest_cosines"], strict=True)
        out["nearest"] = [{"id": id, "label": label, "cosine": cosine} for id, label, cosine in parts]
    return out
