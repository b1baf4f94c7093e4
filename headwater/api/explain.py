"""explain: parts of an image, and words of a text, that support a head's class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._shown import Shown
from headwater._words import aligned
from headwater._writable import require_writable
from headwater.embed import Content
from headwater.embed.encoder import CLIP
from headwater.embed.hub import tokens_of_text
from headwater.errors import HeadwaterError, InputError, nearest
from headwater.evaluate.class_order import columns_of
from headwater.evaluate.measured import WITHOUT_CLASSES
from headwater.heads import LinearProbe, Ordinal, TokenHead, deletion, relevance
from headwater.heads.explain import Relevance
from headwater.runs.foreign import reads_runs
from headwater.runs.run import Run, open_run
from headwater.samples.inputs import Wanted, given_to, parts_of, read_inputs
from headwater.samples.slide_maps import require_same_slides, slide_map, tiles_in
from headwater.sources.steps import parse_steps, reading_of
from headwater.store import KEY_COLUMNS, Data, Store, open_store

SHOWN = 8  # printed tokens
RANDOM_ORDERS = 20
SAME = 0.99  # least cosine between a pooled feature and the mean of its tokens


@dataclass(frozen=True, eq=False, repr=False)
class Explained(Shown):
    """Relevance of one sample's tokens for a class.

    Attributes
    ----------
    id, target, probability
        The sample, the class (or label), and its predicted probability.
    method
        How relevance was computed; see `headwater.heads.relevance`.
    relevance
        For each input, the relevance of each of its tokens, float32, of shape ``(t,)``.
    words
        For each text input, its tokens if the tokenizer could be read, else their numbers; for a bag, the ids of its
        instances.
    check
        For each input, the mean probability of the likeliest class while tokens are deleted (``deletion``) and inserted
        (``insertion``), most relevant first, and the same in random order; empty for a linear probe.
    picture
        Path of the heat map; None if none was written.
    parts
        What relevance is of: ``tokens`` of a sample, or ``instances`` of a bag.
    """

    id: str
    target: Any
    probability: float
    method: str
    relevance: Mapping[str, NDArray[np.float32]]
    words: Mapping[str, Sequence[str]]
    check: Mapping[str, Mapping[str, float]]
    picture: Path | None
    parts: str = "tokens"

    def lines(self) -> list[str]:
        """Return the results in a few lines."""
        out = [f"{self.id}: {self.target}, probability {self.probability:.3f} (relevance by {self.method})"]
        for name, values in self.relevance.items():
            order = np.argsort(-np.abs(values), kind="stable")[:SHOWN]
            labels = self.words.get(name)
            shown = [[labels[i] if labels else f"token {i}", f"{values[i]:+.4f}"] for i in order.tolist()]
            out += [f"{name}, the {len(shown)} most relevant of {len(values)} {self.parts}:"]
            out += [f"  {line}" for line in aligned(shown)]
            if name in self.check:
                found = self.check[name]
                out.append(
                    f"  mean class probability after deleting {self.parts} in this order: {found['deletion']:.3f} "
                    f"(random order: {found['deletion_random']:.3f}); after inserting them: {found['insertion']:.3f} "
                    f"(random order: {found['insertion_random']:.3f})"
                )
        out.append(f"heat map in {self.picture}" if self.picture else "--out FILE.png draws a heat map")
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "id": self.id,
            "target": str(self.target),
            "probability": self.probability,
            "method": self.method,
            "relevance": {name: values.tolist() for name, values in self.relevance.items()},
            "words": {name: list(words) for name, words in self.words.items()},
            "check": {name: dict(found) for name, found in self.check.items()},
            "picture": None if self.picture is None else str(self.picture),
        }


@reads_runs
def explain(
    run: str | Path | Run,
    *,
    id: str,
    target: str | None = None,
    method: Relevance = "gradient",
    store: str | Path | Store | None = None,
    out: str | Path | None = None,
) -> Explained:
    """Compute which tokens of a sample support a class, from stored tokens, without running the encoder.

    It explains the saved head: a head over tokens, or a linear or ordinal head on image features that are means of
    tokens. For a run with bags, it is the relevance of a bag's instances, such as the tiles of a slide.

    Parameters
    ----------
    run
        A run of `fit_head`.
    id
        The sample; for a run with bags, the bag.
    target
        A class, or label. Default: the likeliest.
    method
        ``gradient``, ``occlusion`` or ``attention``; see `headwater.heads.relevance`.
    store
        The store of the features. Default: the run's own store.
    out
        An image file to write: the image under a heat map of its tokens, or the slides of a bag's tiles under a heat
        map of these.

    Raises
    ------
    InputError, HeadError, StoreError
        Each with one line that says what, where and what to do.
    """
    if out is not None:
        _require_picture(require_writable(out))
    fitted = run if isinstance(run, Run) else open_run(run)
    if fitted.config["command"] == "fine-tune":
        raise InputError(
            f"a fine-tune run stores no features. Embed with --adapter {fitted.path} --tokens all, fit a head on the "
            "tokens with headwater fit-head, and explain that run."
        )
    if (task := fitted.metrics["task"]) in WITHOUT_CLASSES:
        what = "numbers" if task == "regression" else "risks"
        raise InputError(f"explain needs a run that predicts classes, but this run predicts {what}.")
    if fitted.config.get("views"):
        raise InputError("explain needs one image per row, but this run has several views of a case.")
    opened = store if isinstance(store, Store) else open_store(store or fitted.config["store"])
    head = fitted.head
    data = _one_bag(opened, fitted, id) if fitted.config.get("bags") else _one_sample(opened, fitted, id)
    X = given_to(head, parts_of(data))
    names = list(data.inputs)
    classes = [str(c) for c in fitted.metrics["classes"]]
    if target is not None and target not in classes:
        raise InputError(f"--class {target}: no such class.{nearest(target, classes)} There are: {', '.join(classes)}.")
    rows = np.array([0])
    columns = columns_of(head, classes)
    scores = _scores(opened, head, X, names, id)[columns]
    chosen = int(np.argmax(scores)) if target is None else classes.index(target)
    found = relevance(head, X, rows, target=columns[chosen], method=method)
    kept = {name: values[0][~np.isnan(values[0])] for name, values in zip(names, found, strict=True)}
    check = {}
    if isinstance(head, TokenHead):
        check = {name: _checked(head, X, values, name) for name, values in zip(names, found, strict=True)}
    if fitted.config.get("bags"):
        members = {name: _members(data.inputs[name]) for name in names}
        picture = None if out is None else _draw_bag(opened, members, kept, Path(out))
        return Explained(
            id, classes[chosen], float(scores[chosen]), method, kept, members, check, picture, parts="instances"
        )
    picture = None if out is None else _draw(opened, data, kept, Path(out))
    words = {name: _words(opened, data, name, len(kept[name])) for name in names if name.endswith("/text")}
    return Explained(id, classes[chosen], float(scores[chosen]), method, kept, words, check, picture)


def _one_bag(store: Store, run: Run, id: str) -> Data:
    """Read the instances of one bag."""
    config = run.config
    if not isinstance(run.head, TokenHead):
        raise InputError(f"a {config['head']} head on bags has no instances to explain. Fit one with --head mil.")
    names = tuple(config["features"])
    data = read_inputs(store, Wanted(names, frozenset(), config.get("missing") == "keep", config["bags"]), None)
    row = np.flatnonzero(data.ids == id)
    if not len(row):
        raise InputError(
            f"--id {id}: no such {config['bags']} in {store.location}.{nearest(id, data.ids.tolist())} The run has "
            "bags, of which one is explained."
        )
    inputs = {name: X.select(row) for name, X in data.inputs.items()}
    present = {name: part[row] for name, part in data.present.items()}
    return Data(inputs, data.table[row.tolist()], data.ids[row], data.left_out, present)


def _members(bags: Any) -> list[str]:
    """Return the ids of the instances of the only bag."""
    return [str(id) for id in bags.ids[bags.members[0]]]


def _draw_bag(
    store: Store, members: Mapping[str, Sequence[str]], found: Mapping[str, NDArray[np.float32]], out: Path
) -> Path:
    """Draw relevance of tiles over their slides."""
    tiles = tiles_in(store)
    name = next((name for name in found if name.endswith("/image")), None)
    if tiles is None or name is None:
        raise InputError(
            f"--out {out}: the bags are not of tiles of slides, so there is no slide to draw. Leave --out out."
        )
    ids = [id for id in members[name] if id in tiles]
    values = np.array([value for id, value in zip(members[name], found[name], strict=True) if id in tiles])
    drawn = [tiles[id] for id in ids]
    try:
        require_same_slides(store, ids, drawn)
        picture = slide_map(drawn, values)
    except HeadwaterError as error:
        raise InputError(f"--out {out}: the slide cannot be read ({error}).") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
    return out


def _one_sample(store: Store, run: Run, id: str) -> Data:
    """Read one sample's tokens."""
    ids = store.samples[store.roles.id].cast(str).to_list()
    if id not in ids:
        raise InputError(f"--id {id}: no such sample in {store.location}.{nearest(id, ids)}")
    config = run.config
    names = tuple(config["features"])
    tokens = frozenset(config.get("tokens") or ())
    if not tokens:
        if not isinstance(run.head, LinearProbe | Ordinal) or len(names) > 1 or not names[0].endswith("/image"):
            raise InputError(
                f"a {config['head']} head on {' and '.join(names)} has no tokens to explain. Fit a head over tokens "
                "(--head efficient-probing, co-attention, token-mlp), or a linear head on the image features alone."
            )
        tokens = frozenset(names)
    data = read_inputs(store, Wanted(names, tokens, config.get("missing") == "keep", None), None)
    row = np.flatnonzero(data.ids == id)
    if not len(row):
        reasons = dict(data.left_out.iter_rows())
        raise InputError(f"--id {id} has no features in {store.location}: {reasons.get(id, 'not embedded')}.")
    return Data(
        {name: X.select(row) for name, X in data.inputs.items()},
        data.table[row.tolist()],
        data.ids[row],
        data.left_out,
        {name: part[row] for name, part in data.present.items()},
    )


def _scores(store: Store, head: Any, X: Any, names: Sequence[str], id: str) -> NDArray[np.float64]:
    """Return the head's probabilities; for a linear probe, check that the pooled feature is the mean of its tokens."""
    if isinstance(head, TokenHead):
        return np.asarray(type(head).predict_proba_many([head], X, [np.array([0])])[0][0], np.float64)
    data = store.read(names[0])
    pooled = np.asarray(data.X[np.flatnonzero(data.ids == id)], np.float64)
    mean = np.asarray(X[np.array([0])], np.float64).mean(1)
    alike = mean.shape == pooled.shape
    cosine = float((pooled * mean).sum() / (np.linalg.norm(pooled) * np.linalg.norm(mean))) if alike else 0.0
    if cosine < SAME:
        raise InputError(
            f"the pooled feature of {names[0]} is not the mean of its tokens (cosine {cosine:.3f}), so a linear probe "
            "on it does not explain tokens. Fit a head over tokens: --head token-mlp --set hidden=[]."
        )
    return np.asarray(head.predict_proba(pooled)[0], np.float64)


def _checked(head: TokenHead, X: Any, values: NDArray[np.float32], name: str) -> dict[str, float]:
    """Delete and insert tokens, most relevant first and in random orders."""
    rows = np.array([0])
    place = None if head.inputs_ is None else name
    gone, back = deletion(head, X, rows, values, name=place)
    rng = np.random.default_rng(0)
    orders = [
        np.where(np.isnan(values), np.nan, rng.random(values.shape)).astype(np.float32) for _ in range(RANDOM_ORDERS)
    ]
    by_chance = [deletion(head, X, rows, order, name=place) for order in orders]
    return {
        "deletion": float(gone.mean()),
        "insertion": float(back.mean()),
        "deletion_random": float(np.mean([one for one, _ in by_chance])),
        "insertion_random": float(np.mean([other for _, other in by_chance])),
    }


def _draw(store: Store, data: Data, found: Mapping[str, NDArray[np.float32]], out: Path) -> Path:
    name = next((name for name in found if name.endswith("/image")), None)
    role = store.roles.image
    if name is None or role is None:
        raise InputError(f"--out {out}: the run reads no image features, so there is no image to draw.")
    grid = as_grid(found[name])
    if grid is None:
        raise InputError(f"--out {out}: the {len(found[name])} tokens of {name} do not form a square grid.")
    path = Path(store.roles.root) / str(data.table[role][0])  # untrusted: the store may come from others
    seen = store.features(name).spec.preprocessing
    steps = parse_steps(seen.get("steps", ()), named_by=f"the store {store.location}")
    try:
        image = Content(bytes.fromhex(data.table[KEY_COLUMNS["image"]][0]), path).image(reading_of(steps))
        image = image if steps is None else steps(image)
    except HeadwaterError as error:
        raise InputError(f"--out {out}: the image cannot be read ({error}).") from error
    region = seen_region(seen, image.width, image.height)
    out.parent.mkdir(parents=True, exist_ok=True)
    heat_map(image, grid, region).save(out)
    return out


def _require_picture(out: Path) -> None:
    if out.is_dir():
        raise InputError(f"--out {out} is a folder. Give a file.")
    if out.suffix.lower() not in Image.registered_extensions():
        raise InputError(f"--out {out}: give the file an image extension, such as .png.")


def _words(store: Store, data: Data, name: str, n: int) -> list[str]:
    """Return a text's tokens by its encoder's tokenizer, if it is available and agrees; else their numbers."""
    numbers = [f"token {i}" for i in range(n)]
    spec = store.features(name).spec
    role = store.roles.text
    if not (spec.encoder.startswith("hf:") or spec.encoder == CLIP) or role is None or spec.tokens != "all" or n < 2:
        return numbers
    text = str(data.table[role][0])
    cut = tokens_of_text(spec.encoder, text, named_by=f"the store {store.location}")
    return cut if cut is not None and len(cut) == n else numbers


FOR, AGAINST = np.array([215.0, 48.0, 39.0]), np.array([69.0, 117.0, 180.0])  # colour-blind safe red and blue
STRONGEST = 0.65  # opacity of the most relevant token
LEAST_SIDE = 448  # least length in pixels of the shorter side of the drawn image


def as_grid(relevance: NDArray[np.floating[Any]]) -> NDArray[np.float64] | None:
    """Return the relevance of tokens as a square matrix; None if their number is not a square.

    Examples
    --------
    >>> as_grid(np.arange(4.0)).tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    side = math.isqrt(len(relevance))
    return relevance.astype(np.float64).reshape(side, side) if side * side == len(relevance) else None


def seen_region(preprocessing: Mapping[str, Any], width: int, height: int) -> tuple[float, float, float, float]:
    """Return the part of an image that an encoder sees: left, top, right, bottom, in pixels.

    Encoders of timm crop the centre to ``crop_pct`` of the shorter side, those of open_clip to a square, and those of
    transformers to ``crop_size`` of ``size``, unless their settings resize the whole image without cropping.

    Examples
    --------
    >>> seen_region({"crop_pct": 0.5, "crop_mode": "center"}, 200, 100)
    (75.0, 25.0, 125.0, 75.0)
    >>> seen_region({"resize_mode": "squash"}, 200, 100)
    (0.0, 0.0, 200.0, 100.0)
    """
    short = float(min(width, height))
    if preprocessing.get("crop_mode", "center") == "center" and "crop_pct" in preprocessing:
        side = short * min(float(preprocessing["crop_pct"]), 1.0)
    elif preprocessing.get("resize_mode") == "shortest":
        side = short
    elif preprocessing.get("do_center_crop") and "shortest_edge" in (preprocessing.get("size") or {}):
        crop = preprocessing.get("crop_size") or {}
        side = short * min(float(crop.get("height", 1)) / float(preprocessing["size"]["shortest_edge"]), 1.0)
    else:
        return 0.0, 0.0, float(width), float(height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def heat_map(image: Image.Image, grid: NDArray[np.float64], region: tuple[float, float, float, float]) -> Image.Image:
    """Return the image in grey under a heat map: red for the class, blue against it."""
    scale = max(1.0, LEAST_SIDE / min(image.size))
    size = round(image.width * scale), round(image.height * scale)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), np.float64)
    left, top, right, bottom = (round(edge * scale) for edge in region)
    most = np.abs(grid).max() or 1.0
    small = Image.fromarray((grid / most).astype(np.float32))
    smooth = np.asarray(small.resize((right - left, bottom - top), Image.Resampling.BICUBIC), np.float64)
    strength = np.zeros(grey.shape)
    strength[top:bottom, left:right] = smooth.clip(-1, 1)
    colour = np.where(strength[..., None] > 0, FOR, AGAINST)
    alpha = STRONGEST * np.abs(strength)[..., None]
    return Image.fromarray((grey[..., None] * (1 - alpha) + colour * alpha).round().astype(np.uint8))
