"""bundle: a run's head with what new cases need, in one file that holds data only and can be sent."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater._progress import Progress, progress_to
from headwater._shown import Shown
from headwater._words import counted, size
from headwater._writable import require_writable
from headwater.errors import InputError
from headwater.experiment.bundle_probes import probe_file, verify_probes
from headwater.experiment.bundled import (
    case_files,
    described,
    encoder_files,
    head_files,
    require_shareable,
)
from headwater.experiment.encoders import Weights, encoders_of
from headwater.runs.bundle import CARD, PROBE, digest_of_bundle, is_bundle, open_bundle, write_bundle
from headwater.runs.card import model_card
from headwater.runs.foreign import reads_runs
from headwater.runs.run import Run, open_run

COMMANDS = ("fit-head", "zero-shot", "fine-tune")


@dataclass(frozen=True, repr=False)
class Bundled(Shown):
    """A bundle.

    Attributes
    ----------
    path
        The file.
    digest
        By which a receiver can recognise it.
    n_bytes
        Its size.
    encoder
        Where the encoder is: ``inside`` the bundle, ``built in`` into headwater, ``apart``, or unknown since features
        were ``imported``.
    cases
        Whether it holds training cases.
    verified
        What was replayed after it was written, or opened, and agreed.
    """

    path: str
    digest: str
    n_bytes: int
    encoder: str
    cases: bool
    verified: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Return in a few lines what is in the bundle."""
        encoder = {
            "inside": "with the encoder's weights",
            "built in": "its encoder is part of headwater",
            "imported": "without an encoder: new cases must be imported",
            "apart": "without an encoder: the receiver needs the same one",
        }[self.encoder]
        cases = "with training cases (vectors, labels, digests of contents)" if self.cases else "without training cases"
        return [
            f"{self.path}: {size(self.n_bytes)}, {encoder}, {cases}",
            *self.verified,
            f"digest {self.digest}: tell it to the receiver by another way than the file",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**vars(self), "verified": list(self.verified)}


@reads_runs
def bundle(
    run: str | Path | Run,
    out: str | Path,
    *,
    with_weights: bool = False,
    with_cases: bool = False,
    weights: Weights = None,
    progress: Progress | bool | None = None,
) -> Bundled:
    """Write a run's head with what new cases need into one file, which `headwater.predict` takes like a run.

    It holds data only: JSON, safetensors and a model card in Markdown. It holds no training row, id or path, and no
    patient identifier.

    Parameters
    ----------
    run
        A run of `fit_head`, `fine_tune` or `zero_shot`, or its path.
    out
        The file to write, ``.zip``.
    with_weights
        Add the weights of the encoders, so that the bundle can be used on a machine without a network.
    with_cases
        Add the training cases as vectors, with labels and digests of their contents, without ids: then ``predict``
        finds the nearest ones, and tells cases that were seen in training.
    weights
        Files of the encoders' weights, if those that the run's store recorded have moved; see `headwater.predict`.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.

    Returns
    -------
    Bundled

    Raises
    ------
    InputError
        When the head is made of training rows, and ``with_cases`` is false; when an encoder cannot be put into a
        bundle.
    HeadError, EncoderError
        When run or encoder cannot be read, or an encoder has other weights than when the features were made.
    """
    say = progress_to(progress)
    path = require_writable(out)
    if path.suffix != ".zip":
        raise InputError(f"--out {path}: give a file that ends in .zip.")
    if path.is_dir():
        raise InputError(f"--out {path} is a folder. Give a file.")
    fitted = run if isinstance(run, Run) else open_run(run)
    command = fitted.config["command"]
    if command not in COMMANDS:
        raise InputError(f"a run of {command} has no head for new cases. Bundle the run that it is about.")
    require_shareable(fitted, with_cases)
    needed = fitted.config["features"].values()
    made = [] if any(spec["encoder"].startswith("imported:") for spec in needed) else encoders_of(fitted, weights)
    say(f"{counted(len(made), 'encoder')}{' with weights' if with_weights else ''}")
    files, placed, adapters = encoder_files(made, fitted, weights=with_weights)
    files |= head_files(fitted)
    if with_cases:
        files |= case_files(fitted)
    files[PROBE] = probe_file(fitted, made if with_weights else ())
    description = described(fitted, placed, adapters, with_cases)
    files[CARD] = model_card(description, path.name).encode()
    write_bundle(path, description, files)
    try:
        return verify_bundle(path)
    except BaseException:
        path.unlink()  # what does not work here must not be sent
        raise


@reads_runs
def verify_bundle(path: str | Path) -> Bundled:
    """Replay the probes of a bundle, and compare its outputs with those where it was made.

    Raises
    ------
    HeadError
        When it was cut short or edited, or head or encoder give other values here.
    """
    if not is_bundle(path):
        raise InputError(f"{path} is not a bundle, and --verify is for bundles. Make one with: headwater bundle RUN")
    with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
        opened = open_bundle(path, Path(folder))
        encoders = [str(spec["encoder"]) for spec in opened.config["features"].values()]
        held = bool(opened.config["weights"]) or any(folder in spec for spec in encoders)
        lines = verify_probes(opened)
        cases = bool(opened.config["cases"])
        place = "inside" if held else _without_weights(encoders)
    return Bundled(str(path), digest_of_bundle(Path(path)), Path(path).stat().st_size, place, cases, lines)


def _without_weights(encoders: Sequence[str]) -> str:
    """Return where encoders are that are not in a bundle."""
    if all(spec.startswith("imported:") for spec in encoders):
        return "imported"
    return "built in" if all(spec.startswith(("builtin:", "stub:")) for spec in encoders) else "apart"
