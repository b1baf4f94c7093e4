"""What the server does, apart from HTTP: one object that holds store, encoders and runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from headwater._progress import Progress
from headwater._words import without_folders
from headwater.embed import Content, Encoder, content_key
from headwater.embed.contents import HeldImage
from headwater.errors import HeadwaterError, ImageError, InputError, nearest
from headwater.samples.contents import modality_of
from headwater.serve.findings import Encoders, Finder
from headwater.serve.gallery import Asked, Gallery, Vector, refined
from headwater.serve.log import Log
from headwater.serve.neighbours import Neighbours
from headwater.serve.options import ServeOptions
from headwater.serve.uploads import Uploads, cropped, jpeg_of
from headwater.sources import burned_in, read_image
from headwater.sources.reading import AS_DECLARED, Reading
from headwater.store import STORED, Modality, Store, is_url, pair_key

VOTERS = 10
THUMBNAIL, LARGE = 320, 4096  # longest sides of pictures, in pixels
MOST_TEXT = 2000
Region = tuple[float, float, float, float]

BURNED_IN = (
    "this case's pixels may show who the patient is (Burned In Annotation is not NO), so it is not shown; the server's "
    "--show-burned-in allows it."
)


@dataclass(frozen=True)
class Question:
    """What a person asks with.

    Attributes
    ----------
    case
        Reference of a stored case.
    upload
        Handle of an uploaded image.
    text
        A sentence.
    region
        A part of the image: left, top, right and bottom as shares.
    weight
        With an image and a sentence: the weight of the image.
    more, less
        References of cases to move the query towards, and away from.
    """

    case: str | None = None
    upload: str | None = None
    text: str | None = None
    region: Region | None = None
    weight: float = 0.5
    more: Sequence[str] = ()
    less: Sequence[str] = ()


class Service:
    """A store, its encoders and runs, ready to answer; several threads may use it.

    Parameters
    ----------
    store
        An open store.
    options
        What is served.
    say
        Called with a line about each step.
    """

    def __init__(self, store: Store, options: ServeOptions, say: Progress) -> None:
        self.store, self.options = store, options
        self._stack = ExitStack()
        self.encoders = Encoders()
        self.finders: dict[str, Finder] = {}
        for name in self._features():
            self._load(name)
        for place in options.runs:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-")))
            finder = Finder(place, folder, self.encoders, options.device, options.trust_remote_code, say)
            if finder.name in self.finders:
                raise InputError(f"--run {place}: two runs are called {finder.name}. Rename one.")
            self.finders[finder.name] = finder
        first = next(iter(self.finders.values()), None)
        config = {} if first is None else first.run.config
        self.log = Log(self._folder(), store)
        self._secret = self.log.secret()
        self.gallery = Gallery(store, self._features(), options.show, self._patient(config), self._secret)
        label = options.label or self._known(config.get("label"))
        cases = next(iter(self.gallery.cases.values()))
        for option, column in (("--label", label), ("--by", options.by)):
            if column is not None:
                cases.require_column(column, option)
        self.neighbours = Neighbours(self.gallery, label, options.by, VOTERS)
        reading = self.gallery.reading(next(iter(self.gallery.cases)))
        self.uploads = Uploads(options.max_pixels, 60.0 * options.keep_minutes, reading=reading)
        for name, of in self.gallery.cases.items():
            say(f"{name}: {of.features.n_items:,} items")
            of.searcher.lengths()
        len(self.gallery.rows)  # computed now rather than for the first request

    def _features(self) -> list[str]:
        names = self.store.feature_names()
        if not self.options.features:
            images = [name for name in names if modality_of(name) == "image"]
            return images or names
        for name in self.options.features:
            if name not in names:
                raise InputError(
                    f"--features {name}: the store has no such features.{nearest(name, names)} It has: "
                    f"{', '.join(names)}."
                )
        return list(self.options.features)

    def _load(self, name: str) -> None:
        """Load the encoder of features that is needed for new images and sentences, if it can be found."""
        with suppress(HeadwaterError):  # without it, stored cases can still be asked with; the request says what lacks
            self._encoder(name)

    def _patient(self, config: Mapping[str, Any]) -> str | None:
        return self.options.patient or self._known(config.get("groups"))

    def _known(self, column: Any) -> str | None:
        """Return a column of a run, if the store has it too."""
        column = column[0] if isinstance(column, list) and len(column) == 1 else column
        return column if isinstance(column, str) and column in self.store.samples.columns else None

    def _folder(self) -> Path:
        if self.options.log is not None:
            return Path(self.options.log)
        if is_url(self.store.location):
            return Path("headwater-serve")
        place = Path(self.store.path)
        return place.with_name(f"{place.name}.serve")

    def close(self) -> None:
        """End threads and remove temporary files."""
        self.gallery.close()
        self.encoders.close()
        self._stack.close()

    # What there is

    def described(self) -> dict[str, Any]:
        """Return what the page needs to draw itself."""
        return {
            "store": Path(self.store.location).name,
            "n_cases": len(self.gallery),
            "features": {name: {"text": self._takes_text(name)} for name in self.gallery.cases},
            "columns": list(self.gallery.show),
            "filters": {
                name: [{"value": value, "n": n} for value, n in values.items()]
                for name, values in self.gallery.filters.items()
            },
            "patients": self.gallery.patient is not None,
            "runs": [finder.described() for finder in self.finders.values()],
            "blind": self.options.blind,
            "max_bytes": self.options.max_bytes,
            "examples": [self.case(row) for row in self.gallery.examples],
        }

    def _takes_text(self, name: str) -> bool:
        """Whether these features may be searched by a sentence, as far as their spec tells."""
        spec = self.gallery.cases[name].features.spec
        return spec.modality != "image" or spec.logit_scale is not None

    # Search

    def search(
        self,
        question: Question,
        *,
        features: str | None,
        k: int,
        filters: Mapping[str, Sequence[str]],
        one_per_patient: bool,
        own_patient: bool,
    ) -> dict[str, Any]:
        """Return similar cases, the labels among them, and lines that warn."""
        name = features or next(iter(self.gallery.cases))
        if name not in self.gallery.cases:
            raise InputError(f"there are no features {name!r} here.{nearest(name, self.gallery.cases)}")
        own = self._stored(question)
        vector = self.vector(name, question)
        asked = Asked(vector, k, filters, own, own_patient=own_patient, one_per_patient=one_per_patient)
        found = self.gallery.find(name, asked)
        hits = [self.case(row) | {"score": score} for row, score in zip(found.rows.tolist(), found.scores.tolist())]
        alike = not any(filters.values()) and self._is_like_stored(name, question)
        notes = self.neighbours.notes(name, found.rows[:VOTERS], found.scores, alike=alike)
        if own is not None and question.upload is not None:
            notes.insert(0, "This very image is in the store: it and, where known, its patient are left out.")
        if len(hits) < k:
            each = ", each patient once" if one_per_patient and self.gallery.patient is not None else ""
            notes.append(f"Only {len(hits)} cases pass{each}: the store has no more, or filters leave none.")
        self.log.query(
            {
                "what": "search",
                "query": self.digest(question),
                "features": name,
                "filters": {column: list(values) for column, values in filters.items()},
                "shown": [hit["case"] for hit in hits],
            }
        )
        labels = self.neighbours.labels(name, found.rows[:VOTERS])
        return {"features": name, "hits": hits, "labels": labels, "notes": notes}

    def _stored(self, question: Question) -> int | None:
        """Return the row of the stored case that is asked with, also where its image was uploaded."""
        if question.case is not None:
            return self.gallery.row_of(question.case)
        if question.upload is None:
            return None
        return self.gallery.by_image.get(self.uploads.get(question.upload).content.key.hex())

    def _is_like_stored(self, name: str, question: Question) -> bool:
        """Whether a query is of the kind of the stored features, so that similarities may be compared with theirs.

        A sentence is far less similar to any image than images are to each other.
        """
        has_text = question.text is not None and bool(question.text.strip())
        if question.more or question.less:
            return False
        modality = self.gallery.cases[name].features.spec.modality
        if modality == "text":
            return question.upload is None and has_text != (question.case is not None)
        return modality == "pair" or not has_text

    def case(self, row: int) -> dict[str, Any]:
        """Return what is shown of a sample."""
        gallery = self.gallery
        return {"case": gallery.references[row], "image": gallery.has_image(row), "columns": gallery.shown(row)}

    def vector(self, name: str, question: Question) -> Vector:
        """Return the vector that a question asks with."""
        parts: list[tuple[float, Vector]] = []
        spec = self.gallery.cases[name].features.spec
        modality = spec.modality
        has_text = question.text is not None and bool(question.text.strip())
        has_image = question.case is not None or question.upload is not None
        if not has_text and not has_image:
            raise InputError("choose an image or a case, or write a sentence.")
        if modality == "pair" and question.case is None:
            parts.append((1.0, self._of_pair(name, question, has_text)))
        else:
            if has_image:
                parts.append((question.weight if has_text else 1.0, self._of_image(name, question)))
            if has_text and modality != "pair":
                parts.append(((1 - question.weight) if has_image else 1.0, self._of_text(name, str(question.text))))
        vector = np.sum([weight * one / (np.linalg.norm(one) or 1.0) for weight, one in parts], axis=0)
        more, less = (
            [self.gallery.vector(name, self.gallery.row_of(reference)) for reference in references]
            for references in (question.more, question.less)
        )
        return refined(vector, more, less) if more or less else np.asarray(vector, np.float64)

    def _of_image(self, name: str, question: Question) -> Vector:
        if question.case is not None and question.region is None:
            return self.gallery.vector(name, self.gallery.row_of(question.case))
        if self.gallery.cases[name].features.spec.modality == "text":
            self._require_dual(name)
        encoder = self._encoder(name)
        return self._encode(encoder, "image", self.image(question, self.gallery.reading(name)), name)

    def _of_text(self, name: str, text: str) -> Vector:
        if self.gallery.cases[name].features.spec.modality != "text":
            self._require_dual(name)
        return self._encode(self._encoder(name), "text", Content(content_key(text.encode()), text), name)

    def _of_pair(self, name: str, question: Question, has_text: bool) -> Vector:
        image = self.image(question, self.gallery.reading(name))
        if not has_text or image is None:
            raise InputError(f"{name} reads an image and its text together: give both.")
        text = str(question.text)
        key = pair_key(image.key, content_key(text.encode()))
        return self._encode(self._encoder(name), "pair", HeldImage(key, "the query", text, image.file()), name)

    def _require_dual(self, name: str) -> None:
        if not self._takes_text(name) or self.gallery.cases[name].features.spec.logit_scale is None:
            raise InputError(
                f"{name} cannot compare images with sentences: that needs an encoder of both, such as CLIP. Ask with "
                f"an {'image' if modality_of(name) == 'image' else 'sentence'}."
            )

    def _encoder(self, name: str) -> Encoder[Any]:
        options = self.options
        return self.encoders.of_store(self.store, name, options.weights, options.device, options.trust_remote_code)

    def _encode(self, encoder: Encoder[Any], modality: Modality, content: Content | None, name: str) -> Vector:
        """Return the stored feature of a content, or encode it."""
        if content is None:
            raise InputError("choose an image.")
        features = self.gallery.cases[name].features
        if features.spec.modality == modality:
            item = int(features.rows_of(np.frombuffer(content.key, np.uint8)[None])[0])
            if item >= 0 and features.status[item] == STORED:
                return np.asarray(features.pooled[item], np.float64)
        return np.asarray(self.encoders.encode(encoder, modality, content).pooled, np.float64)

    # Images

    def image(self, question: Question, reading: Reading = AS_DECLARED) -> Content | None:
        """Return the image that is asked with, or the part of it; None if there is none.

        Parameters
        ----------
        reading
            How the file is read of which a part is taken.
        """
        if question.upload is not None:
            content: Content = self.uploads.get(question.upload).content
        elif question.case is not None:
            row = self.gallery.row_of(question.case)
            if not self.gallery.has_image(row):
                return None
            content = self.gallery.content(row)
        else:
            return None
        if question.region is None:
            return content
        held = content if isinstance(content, HeldImage) else HeldImage(content.key, "a case", None, content.file())
        region = question.region
        return self.uploads.pool(lambda: cropped(held, region, self.options.max_pixels, reading))

    def picture(self, reference: str, side: int) -> bytes:
        """Return the image of a stored case as a JPEG file, at most ``side`` pixels wide and high.

        Raises
        ------
        ImageError
            When it cannot be read, or is DICOM whose pixels may show who the patient is.
        """
        row = self.gallery.row_of(reference)
        name = next(iter(self.gallery.cases))
        content, reading = self.gallery.content(row), self.gallery.reading(name)
        with self.encoders.room.of(content):
            data = content.file()
            if not self.options.show_burned_in and burned_in(data):
                raise ImageError(BURNED_IN)
            return jpeg_of(read_image(data, reading=reading), side)

    # Findings

    def findings(self, question: Question, run: str | None) -> list[dict[str, Any]]:
        """Return what the runs find in a case; of those that cannot read it, why."""
        out = []
        for finder in self._chosen(run):
            image, text = self._case_of(question, finder)
            try:
                found = finder.find(image, text)
            except HeadwaterError as error:
                found = {"run": finder.name, "error": without_folders(str(error))}
            out.append(found)
        shown = {of["run"]: {s["name"]: round(s["probability"], 4) for s in of.get("scores", ())} for of in out}
        self.log.query({"what": "findings", "query": self.digest(question), "shown": shown})
        return out

    def heat_map(self, question: Question, run: str, target: str | None) -> dict[str, Any]:
        """Return which parts of an image support a class of a run."""
        (finder,) = self._chosen(run)
        image, text = self._case_of(question, finder)
        if image is None:
            raise InputError("choose an image.")
        return finder.heat_map(image, text, target)

    def _chosen(self, run: str | None) -> list[Finder]:
        if run is None:
            return list(self.finders.values())
        if run not in self.finders:
            raise InputError(f"there is no run {run!r} here.{nearest(run, self.finders)}")
        return [self.finders[run]]

    def _case_of(self, question: Question, finder: Finder) -> tuple[Content | None, str | None]:
        """Return image and text of a question; of a stored case, its own text if none was written."""
        text = question.text if question.text and question.text.strip() else None
        if text is None and question.case is not None and "text" in finder.reads:
            text = self.gallery.text(self.gallery.row_of(question.case))
        return self.image(question, finder.reading), text

    # Readers

    def record(self, question: Question, call: Mapping[str, Any]) -> None:
        """Write down a reader's own call about a case, and what they made of the findings."""
        entry = dict(call)
        if question.case is not None:
            row = self.gallery.row_of(question.case)
            entry["id"] = str(self.gallery.table[self.gallery.roles.id][row])
            role = self.gallery.roles.image
            entry["image"] = None if role is None else self.gallery.table[role][row]
        content = self.image(Question(case=question.case, upload=question.upload))
        entry["image_key"] = None if content is None else content.key.hex()
        if entry.get("id") is None:
            entry["id"] = entry["image_key"] or self.digest(question)
        self.log.call(entry)

    def digest(self, question: Question) -> str:
        """Return a digest of what was asked with, without the image or the words."""
        made = blake2b(digest_size=16, key=self._secret)
        content = (
            None
            if question.case is None and question.upload is None
            else self.image(Question(case=question.case, upload=question.upload))
        )
        key = "" if content is None else content.key.hex()
        made.update(repr((question.case, key, question.text, question.region)).encode())
        return made.hexdigest()
