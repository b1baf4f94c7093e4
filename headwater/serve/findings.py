"""Findings: what runs say of one case, with the encoders loaded once and shared by all requests."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from headwater._progress import Progress
from headwater.api.explain import as_grid, seen_region
from headwater.embed import Content, Encoder, content_key
from headwater.embed.contents import HeldImage
from headwater.embed.load import load_encoder
from headwater.embed.texts import encoder_of
from headwater.errors import InputError
from headwater.evaluate.class_order import columns_of
from headwater.evaluate.measured import WITHOUT_CLASSES
from headwater.experiment.apply import SavedHead, is_tuned, name_of, specs_of
from headwater.experiment.encoders import RunEncoder, encoders_of
from headwater.experiment.predict import Predictor, threshold_words
from headwater.heads import LinearProbe, Ordinal, TokenHead, relevance
from headwater.heads.base import on_device
from headwater.runs.bundle import is_bundle, open_bundle
from headwater.runs.run import Run, open_run
from headwater.samples.contents import modality_of
from headwater.samples.inputs import Wanted
from headwater.samples.vectors import joined
from headwater.serve.batches import Batcher
from headwater.serve.uploads import Room
from headwater.sources.reading import AS_DECLARED, Reading
from headwater.store import KEY_COLUMNS, Data, Modality, Store, pair_key

REMEMBERED, REMEMBERED_BYTES = 512, 256 << 20  # items whose features are kept, and bytes of these
FOR, AGAINST = (215, 48, 39), (69, 117, 180)  # colour-blind safe red and blue


class Features:
    """The features of one item, as an encoder makes them.

    Attributes
    ----------
    pooled : float32 array of shape (dim,)
    tokens : float32 array of shape (t, token_dim), or None
    """

    def __init__(self, pooled: NDArray[np.float32], tokens: NDArray[np.float32] | None) -> None:
        self.pooled, self.tokens = pooled, tokens

    @property
    def n_bytes(self) -> int:
        """Bytes in memory."""
        return self.pooled.nbytes + (0 if self.tokens is None else self.tokens.nbytes)


class Encoders:
    """Encoders, each loaded once; items of concurrent requests are encoded together, and the latest are remembered."""

    def __init__(self, room: Room | None = None) -> None:
        self.room = Room() if room is None else room
        self._loaded: dict[Any, Encoder[Any]] = {}
        self._batches: dict[Any, Batcher[Any, Features]] = {}
        self._made: OrderedDict[tuple[int, Modality, bytes], Future[Features]] = OrderedDict()
        self._lock = threading.Lock()

    def of_store(self, store: Store, name: str, weights: Any, device: str, trusted: bool) -> Encoder[Any]:
        """Load the encoder that made the features of a store."""
        key = ("store", name.rpartition("/")[0])
        if key not in self._loaded:
            self._loaded[key] = encoder_of(store, name, weights=weights, device=device, trust_remote_code=trusted)
        return self._loaded[key]

    def of_run(self, one: RunEncoder, device: str, named_by: str) -> Encoder[Any]:
        """Load an encoder of a run, unless one that makes the same features is loaded already."""
        for known in self._loaded.values():
            made = {
                m: known.spec(m, spec.dtype).with_tiles(spec.tiles)
                for m, spec in one.specs.items()
                if m in known.modalities
            }
            if len(made) == len(one.specs) and not any(one.specs[m].differences(made[m]) for m in made):
                return known
        key = repr(one.choice)
        if key not in self._loaded:
            self._loaded[key] = load_encoder(one.choice, device=device, named_by=named_by)
        return self._loaded[key]

    def encode(self, encoder: Encoder[Any], modality: Modality, content: Content) -> Features:
        """Return the features of an item; it is prepared in this thread, and encoded with those of others."""
        key = (id(encoder), modality, content.key)
        with self._lock:
            known = self._made.get(key)
            if known is None:
                mine: Future[Features] = Future()
                self._made[key] = mine
        if known is not None:
            return known.result()
        try:
            with self.room.of(content):
                prepared = encoder.prepare(modality, content)
            found = self._batch_of(encoder, modality)(prepared)
        except BaseException as error:
            with self._lock:
                self._made.pop(key, None)
            mine.set_exception(error)
            raise
        mine.set_result(found)
        self._forget()
        return found

    def _forget(self) -> None:
        """Drop the oldest features, as many as are too many or take too much memory."""
        with self._lock:
            held = {key: of.result().n_bytes for key, of in self._made.items() if of.done() and not of.exception()}
            total = sum(held.values())
            for key in list(held)[:-1]:
                if len(self._made) <= REMEMBERED and total <= REMEMBERED_BYTES:
                    break
                total -= held[key]
                del self._made[key]

    def _batch_of(self, encoder: Encoder[Any], modality: Modality) -> Batcher[Any, Features]:
        key = (id(encoder), modality)
        with self._lock:
            if key not in self._batches:
                self._batches[key] = Batcher(lambda batch: _encoded(encoder, modality, batch))
            return self._batches[key]

    def close(self) -> None:
        """End the threads that encode."""
        for batcher in self._batches.values():
            batcher.close()


def _encoded(encoder: Encoder[Any], modality: Modality, batch: Sequence[Any]) -> list[Features]:
    made = encoder.encode(modality, list(batch))
    pooled = np.asarray(made.pooled, np.float32)
    tokens = [None] * len(batch) if made.tokens is None else [np.asarray(part, np.float32) for part in made.tokens]
    return [Features(row, part) for row, part in zip(pooled, tokens, strict=True)]


class Finder:
    """A run that says what it finds in one case.

    Parameters
    ----------
    place
        A run or a bundle, or its path.
    folder
        An empty folder, for what a bundle holds.
    encoders
        Where encoders are loaded.

    Raises
    ------
    InputError
        For a run whose rows are not single cases.
    """

    def __init__(
        self, place: str | Path | Run, folder: Path, encoders: Encoders, device: Any, trusted: bool, say: Progress
    ) -> None:
        run = place if isinstance(place, Run) else open_bundle(place, folder) if is_bundle(place) else open_run(place)
        for what in ("bags", "views"):
            if run.config.get(what):
                raise InputError(f"--run {place}: its rows are {what} of several images, but the page asks about one.")
        if run.config["command"] not in ("fit-head", "fine-tune", "zero-shot"):
            raise InputError(f"--run {place}: a run of {run.config['command']} has no findings. Pass the run itself.")
        if run.head.transductive:
            raise InputError(f"--run {place}: a {run.config['head']} head predicts cases together, not one by one.")
        self.run = replace(run, head=on_device(run.head, device))
        self.name = Path(str(place.path if isinstance(place, Run) else place)).resolve().name.removesuffix(".zip")
        self._predictor = Predictor.of(self.run, say)
        self._encoders = encoders
        own = list(specs_of(run))
        tokens = frozenset(run.config.get("tokens") or ())
        wanted = Wanted(tuple(own), tokens, run.config.get("missing") == "keep", None)
        self._saved = SavedHead(self.run, own, own, wanted)
        self._made_by = {
            f"{one.base}/{modality}": encoders.of_run(one, device, f"the run {name_of(run)}")
            for one in encoders_of(run, trust_remote_code=trusted)
            for modality in one.specs
        }
        self._before: dict[str, Encoder[Any]] = {}
        if is_tuned(run) and run.reference is not None:
            for one in encoders_of(run, trust_remote_code=trusted):
                loaded = encoders.of_run(one.frozen, device, f"the run {name_of(run)}")
                self._before |= {f"{one.base}/{modality}": loaded for modality in one.specs}
        for one in encoders_of(run, trust_remote_code=trusted):
            made = {m: self._made_by[f"{one.base}/{m}"].spec(m, one.specs[m].dtype) for m in one.specs}
            as_there = {
                m: spec.with_tokens_as(one.specs[m].tokens_dtype).with_tiles(one.specs[m].tiles)
                for m, spec in made.items()
            }
            one.require_same(run, as_there)

    @property
    def reads(self) -> set[str]:
        """``image`` and ``text``, whichever a case must have."""
        kinds = {modality_of(name) for name in self._saved.own}
        return {"image", "text"} if "pair" in kinds else set(kinds)

    @property
    def reading(self) -> Reading:
        """How its encoder reads files."""
        steps = [of.steps for name, of in self._made_by.items() if modality_of(name) != "text"]
        return next((of.reading for of in steps if of is not None), AS_DECLARED)

    def described(self) -> dict[str, Any]:
        """Return what the run is, for the page."""
        metrics = self.run.metrics
        return {
            "name": self.name,
            "task": metrics["task"],
            "head": self.run.config["head"],
            "classes": [str(name) for name in self._saved.classes],
            "reads": sorted(self.reads),
            "calibrated": "calibrator" in self.run.decision,
            "rule": threshold_words(self.run),
            "conformal": (self.run.decision.get("conformal") or {}).get("alpha"),
            "heat_map": self._explains,
        }

    def find(self, image: HeldImage | Content | None, text: str | None, labels: bool = True) -> dict[str, Any]:
        """Return the findings of a case.

        Parameters
        ----------
        image, text
            The case.
        labels
            Whether labels of nearest training cases may be shown.
        """
        features = self._features(image, text)
        keys = {"image": None if image is None else image.key.hex()}
        keys["text"] = None if text is None else content_key(text.encode()).hex()
        data, pooled = self._data(features)
        columns = {column: [keys[kind]] for kind, column in KEY_COLUMNS.items()}
        table = pl.DataFrame(columns, dict.fromkeys(columns, pl.String))
        vectors = None
        if self._predictor.past.compares:
            vectors = joined(
                self._data(self._features(image, text, self._before))[0].inputs if self._before else pooled, {}
            )
        row = self._predictor.described(self._saved, data, vectors, table, np.array([0])).row(0, named=True)
        scores = {name.removeprefix("score_"): value for name, value in row.items() if name.startswith("score_")}
        ranked = sorted(scores.items(), key=lambda pair: -pair[1])
        return {
            "run": self.name,
            "scores": [{"name": n, "probability": p, "in_set": n in (row.get("set") or ())} for n, p in ranked],
            "values": {name: row[name] for name in row if name.startswith(("predicted", "risk"))},
            "decision": row.get("decision"),
            "set": row.get("set"),
            "unlike_training": row.get("unlike_training"),
            "seen_in_training": row.get("seen_in_training"),
            "nearest_labels": row.get("nearest_labels") if labels else None,
        }

    def heat_map(self, image: HeldImage | Content, text: str | None, target: str | None) -> dict[str, Any]:
        """Return which parts of an image support a class, as a small picture to lay over it.

        Returns
        -------
        dict
            ``picture``, a PNG file as a data URL, red for the class and blue against it; ``region``, the part of the
            image that the encoder sees, as left, top, right and bottom shares; ``target``.

        Raises
        ------
        InputError
            When the run has no tokens to explain.
        """
        if not self._explains:
            raise InputError(f"{self.name} has no tokens to explain: fit a head over tokens for heat maps.")
        features = self._features(image, text)
        data, _ = self._data(features, tokens=True)
        classes = [str(name) for name in self._saved.classes]
        columns = columns_of(self.run.head, classes)
        if target is None:
            scores = self._saved.scores(self._data(features)[0])[0]
            target = classes[int(scores.argmax())]
        if target not in classes:
            raise InputError(f"the run has no class {target!r}.")
        X = self._saved.inputs(data)
        found = relevance(self.run.head, X, np.array([0]), target=columns[classes.index(target)])
        place = next(i for i, name in enumerate(data.inputs) if name.endswith("/image"))
        values = found[place][0]
        grid = as_grid(values[~np.isnan(values)])
        if grid is None:
            raise InputError("the tokens of this encoder form no square grid.")
        encoder = self._made_by[list(data.inputs)[place]]
        with self._encoders.room.of(image):
            seen = encoder.image_of(image)
        box = seen_region(encoder.spec("image", "float32").preprocessing, seen.width, seen.height)
        shares = [edge / side for edge, side in zip(box, (seen.width, seen.height) * 2, strict=True)]
        return {"picture": _overlay(grid), "region": shares, "target": target}

    @property
    def _explains(self) -> bool:
        if self.run.metrics["task"] in WITHOUT_CLASSES or not any(n.endswith("/image") for n in self._saved.own):
            return False
        if isinstance(self.run.head, TokenHead):
            return bool(self._saved.what.tokens)
        pooled = isinstance(self.run.head, LinearProbe | Ordinal) and len(self._saved.own) == 1
        return pooled and specs_of(self.run)[self._saved.own[0]].has_tokens

    def _features(
        self, image: HeldImage | Content | None, text: str | None, by: Mapping[str, Encoder[Any]] | None = None
    ) -> dict[str, Features]:
        """Encode a case for each input, by the run's encoders or by others."""
        by, out = by or self._made_by, {}
        for name in self._saved.own:
            modality = modality_of(name)
            if modality in ("image", "pair") and image is None:
                raise InputError(f"{self.name} reads images: choose one.")
            if modality in ("text", "pair") and (text is None or not text.strip()):
                raise InputError(f"{self.name} reads texts: write a sentence.")
            out[name] = self._encoders.encode(by[name], modality, _content(modality, image, text))
        return out

    def _data(
        self, features: Mapping[str, Features], *, tokens: bool = False
    ) -> tuple[Data, dict[str, NDArray[np.float32]]]:
        """Return the inputs of the head, and the pooled features."""
        pooled = {name: of.pooled[None] for name, of in features.items()}
        inputs: dict[str, Any] = {}
        for name, of in features.items():
            with_tokens = of.tokens is not None and (tokens or name in self._saved.what.tokens)
            inputs[name] = of.tokens[None] if with_tokens and of.tokens is not None else pooled[name]
        left_out = pl.DataFrame(schema={"id": pl.String, "reason": pl.String})
        return Data(inputs, pl.DataFrame({"id": ["case"]}), np.array(["case"]), left_out), pooled


def _content(modality: Modality, image: HeldImage | Content | None, text: str | None) -> Content:
    """Return an item of a modality."""
    if modality == "text":
        return Content(content_key(str(text).encode()), str(text))
    if image is None:
        raise InputError("choose an image.")
    if modality == "image":
        return image
    key = pair_key(image.key, content_key(str(text).encode()))
    data = image.file()
    return HeldImage(key, str(image.source), text, data)


def _overlay(grid: NDArray[np.float64]) -> str:
    """Return a grid as a small picture with transparency, in a data URL."""
    strength = (grid / (np.abs(grid).max() or 1.0)).clip(-1, 1)
    colour = np.where(strength[..., None] > 0, FOR, AGAINST).astype(np.uint8)
    alpha = (255 * np.abs(strength)).round().astype(np.uint8)[..., None]
    out = io.BytesIO()
    Image.fromarray(np.concatenate([colour, alpha], axis=-1)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
