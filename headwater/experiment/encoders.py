"""The encoders of a run: those that made the features of its head, for new images and texts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headwater._devices import Precision
from headwater.embed.choice import EncoderChoice
from headwater.embed.load import choice_again
from headwater.errors import EncoderError, HeadwaterError, InputError, SpecMismatch
from headwater.experiment.apply import differences, is_tuned, name_of, specs_of
from headwater.runs.run import Run
from headwater.samples.contents import modality_of
from headwater.store import FeatureSpec, Modality, Store, open_store

Weights = str | Path | Mapping[str, str | Path] | None
"""A file of weights; or for several encoders, files by the name of their features, such as ``clip``."""


@dataclass(frozen=True)
class RunEncoder:
    """An encoder of a run.

    Attributes
    ----------
    base
        The part of its features' names before ``/image`` and ``/text``.
    choice
        The encoder, with everything that decides which features it makes.
    specs
        The spec of its features that the head reads, by modality.
    precision
        ``fp32`` if the features were made in it, and else ``auto``: what made them may be slow here.
    """

    base: str
    choice: EncoderChoice
    specs: Mapping[Modality, FeatureSpec]
    precision: Precision = "auto"

    @property
    def frozen(self) -> RunEncoder:
        """The encoder as it was before it was trained."""
        specs: dict[Modality, FeatureSpec] = {m: replace(spec, adapter=None) for m, spec in self.specs.items()}
        return replace(self, choice=replace(self.choice, adapter=None), specs=specs)

    def require_same(self, run: Run, made: Mapping[Modality, FeatureSpec]) -> None:
        """Refuse features with another spec than those that the head was fitted on.

        Raises
        ------
        SpecMismatch
            The message names the fields that differ.
        """
        for modality, wanted in self.specs.items():
            if modality not in made:
                raise SpecMismatch(
                    f"{name_of(run)} reads {modality}s as {self.base}, which {self.choice.spec} does not."
                )
            differing = differences(run, wanted, made[modality])
            if not differing:
                continue
            changes = "; ".join(f"{what}: {its!r} in the run, {here!r} here" for what, (its, here) in differing.items())
            advice = ". Pass --weights, the file that the features were made with" if "weights" in differing else ""
            raise SpecMismatch(
                f"the encoder {self.choice.spec} is not the one that {name_of(run)} was fitted on ({changes}){advice}."
            )


def encoders_of(run: Run, weights: Weights = None, *, trust_remote_code: bool = False) -> list[RunEncoder]:
    """Return the encoders of a run's features, each once.

    Parameters
    ----------
    weights
        Files to load instead of those that the run's store recorded.
    trust_remote_code
        Allow code that comes with a model, or that the run names, to run.

    Raises
    ------
    EncoderError
        When features were imported, so that no encoder made them here.
    InputError
        When ``weights`` names no features of the run.
    """
    bases: dict[str, dict[Modality, FeatureSpec]] = {}
    for name, spec in specs_of(run).items():
        bases.setdefault(name.rpartition("/")[0], {})[modality_of(name)] = spec
    given = _given(weights, list(bases))
    store = store_of(run)
    found = []
    for base, specs in bases.items():
        spec = next(iter(specs.values()))
        if spec.encoder.startswith("imported:"):
            raise EncoderError(
                f"{name_of(run)} was fitted on imported features ({base}), so no encoder here can make those of new "
                "cases. Import these as well (headwater import), and pass that store instead of images."
            )
        recorded = recorded_files(run, store, f"{base}/{next(iter(specs))}", spec)
        choice = choice_again(
            spec,
            weights=given.get(base, recorded.get("weights_file")),
            adapter=recorded.get("adapter_file"),
            trust_remote_code=trust_remote_code,
        )
        found.append(RunEncoder(base, choice, specs, "fp32" if recorded.get("precision") == "fp32" else "auto"))
    return found


def _given(weights: Weights, bases: list[str]) -> dict[str, str | Path]:
    """Return the given files by the name of the features."""
    if weights is None:
        return {}
    if not isinstance(weights, Mapping):
        if len(bases) > 1:
            raise InputError(
                f"--weights {weights}: the run has {len(bases)} encoders. Say whose weights these are: --weights "
                f"{bases[0]}=FILE."
            )
        return {bases[0]: weights}
    for base in weights:
        if base not in bases:
            raise InputError(f"--weights {base}=…: the run has no features of this name. It has: {', '.join(bases)}.")
    return dict(weights)


def store_of(run: Run) -> Store | None:
    """Return the store of a run's features, if it is still there."""
    with suppress(HeadwaterError, KeyError):
        return open_store(run.config["store"])
    return None


def recorded_files(run: Run, store: Store | None, name: str, spec: FeatureSpec) -> dict[str, Any]:
    """Return what features were made with, as far as it is recorded: files of weights and adapter, and precision."""
    if "bundle" in run.config:
        base = name.rpartition("/")[0]
        adapter = run.config["adapters"].get(base) if spec.adapter is not None else None
        return {"weights_file": run.config["weights"].get(base), "adapter_file": adapter}
    if is_tuned(run):
        specs, files = run.config.get("encoders") or [], run.config.get("weights") or []
        of_encoder = dict(zip(specs, files, strict=False)).get(spec.encoder)
        adapter = run.path if spec.adapter is not None else None
        return {"weights_file": of_encoder or None, "adapter_file": adapter, "precision": "fp32"}
    if store is None or name not in store.feature_names():
        return {}
    environments = list(store.features(name).environments().values())
    last = environments[-1] if environments else {}
    known = ("weights_file", "adapter_file", "precision")
    found = {key: last[key] for key in known if isinstance(last.get(key), str)}
    if spec.adapter is None:
        found.pop("adapter_file", None)
    return found
