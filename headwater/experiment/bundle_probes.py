"""Probes of a bundle: made-up inputs with their outputs, replayed where it is used to test that everything works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._tensors import as_safetensors, read_arrays
from headwater.embed import Content, content_key
from headwater.embed.contents import HeldImage
from headwater.embed.load import load_encoder
from headwater.errors import EncoderError, HeadError
from headwater.evaluate.measured import WITHOUT_CLASSES
from headwater.experiment.apply import name_of, scores_of_head, specs_of
from headwater.experiment.encoders import RunEncoder, encoders_of
from headwater.heads.tokens import Bags
from headwater.runs.bundle import PROBE
from headwater.runs.run import Run
from headwater.samples.inputs import given_to
from headwater.store import FeatureSpec

SCALES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Of made-up inputs: features of encoders differ in size, and probabilities far from any case are 0 and 1."""
N_TOKENS = 6
PROBE_SIDE = 96
PROBE_TEXT = "a sentence that tells whether the encoder is the same"
SAME_SCORES, SAME_COSINE, LEAST = 1e-3, 0.999, 1e-300


def probe_inputs(run: Run) -> dict[str, NDArray[np.float32]]:
    """Return made-up inputs of a run's head, by name: a row is a vector, or tokens of shape ``(t, d)``.

    They come from a random generator, not from any case.
    """
    rng = np.random.default_rng(0)
    found: dict[str, NDArray[np.float32]] = {}
    levels = list(run.config.get("view_levels") or ())
    for name, spec in specs_of(run).items():
        for view in [f"{level}:{name}" for level in levels] if levels else [name]:
            tokens = name in (run.config.get("tokens") or ())
            n_tokens, width = (spec.n_tokens or N_TOKENS, spec.token_dim or spec.dim) if tokens else (1, spec.dim)
            values = rng.standard_normal((len(SCALES), n_tokens, width)).astype(np.float32)
            values *= np.array(SCALES, np.float32)[:, None, None]
            found[view] = values if tokens else values[:, 0]
    return found


def probe_scores(run: Run, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return a head's uncalibrated scores of made-up inputs; those of a head over bags are one bag of all rows."""
    parts: dict[str, Any] = dict(inputs)
    if run.config.get("bags") and not run.config.get("views"):
        parts = {name: Bags(values, [np.arange(len(values))]) for name, values in parts.items()}
    return scores_of_head(run, given_to(run.head, parts), calibrated=False)


def probe_features(encoder: RunEncoder, named_by: str) -> dict[str, NDArray[np.float32]]:
    """Return an encoder's features of a made-up image and sentence, by modality."""
    loaded = load_encoder(encoder.choice, device="cpu", precision="fp32", named_by=named_by, probing="never")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    data = BytesIO()
    Image.fromarray(pixels).resize((PROBE_SIDE, PROBE_SIDE), Image.Resampling.NEAREST).save(data, "PNG")
    image = data.getvalue()
    found: dict[str, NDArray[np.float32]] = {}
    for modality in encoder.specs:
        words = PROBE_TEXT if modality != "image" else None
        key = content_key(image + PROBE_TEXT.encode())
        content = Content(key, PROBE_TEXT) if modality == "text" else HeldImage(key, "probe.png", words, image)
        prepared = [loaded.prepare(modality, content)]
        found[modality] = np.asarray(loaded.encode(modality, prepared).pooled, np.float32)[0]
        own = {modality: loaded.spec(modality, encoder.specs[modality].dtype)}
        _require_weights(encoder, own[modality], modality)
    return found


def _require_weights(encoder: RunEncoder, made: FeatureSpec, modality: Any) -> None:
    if made.weights != encoder.specs[modality].weights:
        raise EncoderError(
            f"the encoder {encoder.choice.spec} has other weights than when the run's features were made. Pass "
            "--weights, the file that they were made with."
        )


def probe_file(run: Run, encoders: Sequence[RunEncoder]) -> bytes:
    """Return the file of probes: inputs and scores of the head, and features of the encoders in the bundle."""
    inputs = probe_inputs(run)
    arrays: dict[str, NDArray[Any]] = {f"input {name}": values for name, values in inputs.items()}
    arrays["scores"] = probe_scores(run, inputs)
    for encoder in encoders:
        for modality, values in probe_features(encoder, f"the run {name_of(run)}").items():
            arrays[f"features {encoder.base}/{modality}"] = values
    return as_safetensors(arrays)


def _apart(here: NDArray[np.float64], there: NDArray[np.float64], task: str) -> float:
    """Return the largest relative difference of scores; of probabilities, that of their logarithms."""
    if here.shape != there.shape:
        return float("inf")
    if task not in WITHOUT_CLASSES:  # probabilities of inputs far from any case are close to 0 and 1
        here, there = (np.log(np.maximum(scores, LEAST)) for scores in (here, there))
    return float((np.abs(here - there) / (1 + np.abs(there))).max())


def verify_probes(run: Run) -> list[str]:
    """Replay the probes of a bundle, and return what agrees, a line each.

    Raises
    ------
    HeadError
        When head or encoder give other values than where the bundle was made.
    """
    where = run.config["bundle"]
    try:
        arrays = read_arrays(run.path / PROBE)  # type: ignore[operator]
    except (OSError, ValueError) as error:
        raise HeadError(f"{where}: its made-up inputs cannot be read ({error}). Fetch it again.") from error
    inputs = {name.removeprefix("input "): values for name, values in arrays.items() if name.startswith("input ")}
    if set(inputs) != set(probe_inputs(run)) or "scores" not in arrays:
        raise HeadError(f"{where}: its made-up inputs are those of another head. Fetch it again.")
    farthest = _apart(probe_scores(run, inputs), arrays["scores"], run.metrics["task"])
    if not farthest <= SAME_SCORES:
        raise HeadError(f"{where}: the head scores its probes otherwise here, by up to {farthest:.2g}: do not use it.")
    n = len(next(iter(inputs.values())))
    lines = [f"head: {n} made-up inputs scored as where the bundle was made (within {farthest:.1e})"]
    stored = {name.removeprefix("features "): values for name, values in arrays.items() if name.startswith("features ")}
    for encoder in encoders_of(run) if stored else ():  # imported features have no encoder
        if not any(f"{encoder.base}/{modality}" in stored for modality in encoder.specs):
            continue
        for modality, values in probe_features(encoder, f"the bundle {where}").items():
            theirs = stored.get(f"{encoder.base}/{modality}")
            if theirs is None or theirs.shape != values.shape:
                raise HeadError(f"{where}: its features of made-up inputs are of another encoder: do not use it.")
            cosine = float(values @ theirs / (np.linalg.norm(values) * np.linalg.norm(theirs)))
            if not cosine >= SAME_COSINE:
                raise HeadError(
                    f"{where}: the encoder {encoder.base} gives other features here (cosine {cosine:.4f}): do not use "
                    "the bundle."
                )
            alike = f"as where the bundle was made (cosine {cosine:.5f})"
            lines.append(f"encoder {encoder.base}: features of a made-up {modality} {alike}")
    return lines
