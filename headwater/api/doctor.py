"""doctor: report what is installed, and test an encoder before a long run."""

from __future__ import annotations

import os
import platform
import re
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from headwater._checks import refuse_idle, require_whole
from headwater._devices import Precision
from headwater._extras import need
from headwater._options import fields_given, option_of, with_options
from headwater._shown import Shown
from headwater._words import size
from headwater.embed import Encoder, Source, load_encoder, no_network, source_of
from headwater.embed.choice import EncoderChoice, encoder_choice
from headwater.embed.compare import findings_of
from headwater.embed.known import known_of, short_name, warn_of_plain
from headwater.embed.model_spec import ModelSpec, shown
from headwater.embed.speed import Measured, measure
from headwater.errors import EncoderError
from headwater.retrieve.library import CPU, GPU, FaissLibrary, faiss_library
from headwater.store import FeatureSpec, Modality

BATCH_SIZE = 32
TRIED = "tested on synthetic items: different items get different vectors, equal items equal ones, alone or in a batch"


@dataclass(frozen=True)
class Environment:
    """Installed software and hardware.

    Attributes
    ----------
    headwater, python, system
        Versions, and the type of machine.
    n_cores, memory
        Cores that this process may use, and bytes of memory; None if unknown.
    cuda
        The GPU that torch sees, and bytes of its memory; None without a GPU.
    faiss
        The installed builds of FAISS.
    extras
        Packages of each extra with their versions, builds of FAISS excepted; None for a package that is not installed.
    """

    headwater: str
    python: str
    system: str
    n_cores: int
    memory: int | None
    cuda: tuple[str, int] | None
    faiss: FaissLibrary
    extras: dict[str, dict[str, str | None]]

    def lines(self) -> list[str]:
        """Return it in a few lines."""
        memory = "" if self.memory is None else f", {size(self.memory)} of memory"
        out = [f"headwater {self.headwater}, Python {self.python}, {self.system}, {self.n_cores} cores{memory}"]
        out.append("GPU: torch sees none" if self.cuda is None else f"GPU: {self.cuda[0]}, {size(self.cuda[1])}")
        out.append(self.faiss.line())
        for extra, packages in self.extras.items():
            there = [f"{name} {found}" for name, found in packages.items() if found is not None]
            missing = [name for name, found in packages.items() if found is None]
            parts = [", ".join(there)] if there else []
            parts += [f"without {', '.join(missing)}: pip install 'headwater[{extra}]'"] if missing else []
            out.append(f"{extra}: {'; '.join(parts)}")
        return out


@dataclass(frozen=True)
class Examined:
    """An encoder that was loaded and tested.

    Attributes
    ----------
    name
        Its spec.
    source
        Where its files were before it was loaded.
    n_parameters
        Number of parameters; None if unknown.
    environment
        Device, precision and versions that it ran with.
    features
        The spec of each feature set that it makes.
    measured
        Speed and memory for each modality.
    tried
        Whether it was tested on synthetic items first; encoders without weights are not.
    spec
        Its spec in the long form, if it has one: what the name of a known encoder stands for.
    findings
        What the files of such a model say against its spec, and whether the weights are the published ones.
    """

    name: str
    source: Source
    n_parameters: int | None
    environment: dict[str, Any]
    features: dict[Modality, FeatureSpec]
    measured: dict[Modality, Measured]
    tried: bool = False
    spec: str | None = None
    findings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return it in a few lines."""
        kind, place = self.source.kind, self.source.place
        where = {"network": "downloaded", "cache": "found in the Hugging Face cache", "built in": "built in"}
        parts = [where.get(kind, f"found in the {kind} named") + (f" ({place})" if place else "")]
        if self.n_parameters is not None:
            parts.append(f"{self.n_parameters:,} parameters")
        parts += [str(self.environment[key]) for key in ("device", "precision") if key in self.environment]
        out = [f"{self.name}: {', '.join(parts)}"]
        out += [f"  {line}" for line in self.findings] if self.spec is None else self._stands_for(self.spec)
        out += [TRIED] if self.tried else []
        for modality, spec in self.features.items():
            tokens = ""
            if spec.has_tokens:
                n_tokens = "a variable number" if spec.n_tokens is None else str(spec.n_tokens)
                tokens = f", tokens {n_tokens} x {spec.token_dim}"
            found = self.measured[modality]
            memory = "" if found.peak_memory is None else f", {size(found.peak_memory)} of memory"
            out.append(f"{modality}: {spec.dim} values{tokens}; {_prepared_by(spec)}")
            out.append(
                f"  {found.items_per_second:.3g} items per second, batch size {found.batch_size}{memory} "
                f"({found.n_items} {found.items})"
            )
            each, rate = found.item_bytes, size(int(found.item_bytes * found.items_per_second))
            out.append(
                f"  {size(each)} per item in {spec.dtype}: {rate} per second, {size(100_000 * each)} for 100,000 items"
            )
        return out

    def _stands_for(self, spec: str) -> list[str]:
        """Return what a long form holds, what its files say against it, and the traps that are known."""
        model, known = ModelSpec.parse(spec), known_of(spec)
        pooling = next((f.pooling for f in self.features.values() if f.modality == "image"), "own")
        out = [f"stands for {model.plain}, pooling {pooling}"]
        if model.arguments:
            out.append(f"built with {', '.join(f'{key}={shown(v)}' for key, v in sorted(model.arguments.items()))}")
        out += [] if model.transform is None else [f"images: {model.transform}"]
        if known is not None:
            use = {True: "", False: ", no commercial use", None: ", read its terms before commercial use"}
            out.append(f"licence: {known.licence}{use[known.commercial]}")
            out += [f"note: {known.trap}"] if known.trap else []
        return [f"  {line}" for line in (*out, *self.findings)]


@dataclass(frozen=True, repr=False)
class DoctorReport(Shown):
    """The result of `doctor`: the environment, and the encoder if one was named."""

    environment: Environment
    encoder: Examined | None

    def lines(self) -> list[str]:
        """Return it in a few lines."""
        return [*self.environment.lines(), *([] if self.encoder is None else ["", *self.encoder.lines()])]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def doctor(
    *,
    encoder: str | EncoderChoice | None = None,
    tokens: str | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    offline: bool = False,
    **options: Any,
) -> DoctorReport:
    """Report what is installed; if an encoder is named, test that it runs, and measure its speed and memory.

    Parameters
    ----------
    encoder, precision, device, batch_size
        As for `headwater.api.embed`.
    tokens
        As for `embed`. Default: those of an `headwater.EncoderChoice`; of a spec, all tokens if the encoder makes any.
    offline
        Download nothing, to test that the run needs no network.
    options
        Any field of `headwater.EncoderChoice` by its name, such as ``weights`` or ``layer``; like ``tokens``,
        ``precision``, ``device`` and ``batch_size``, only with an encoder.

    Raises
    ------
    EncoderError
        When the encoder cannot be loaded or used.
    InputError
        When an option cannot be used.
    """
    require_whole("--batch-size", batch_size, 1)
    choice: EncoderChoice = with_options("doctor", options, encoder_choice("" if encoder is None else encoder))
    if encoder is None:
        idle = {option_of(name): True for name in fields_given(choice)}
        idle |= {"--tokens": tokens is not None, "--precision": precision != "auto", "--device": device != "auto"}
        refuse_idle(idle | {"--batch-size": batch_size != BATCH_SIZE}, "goes with --encoder, the encoder to try.")
        return DoctorReport(_environment(), None)
    if tokens is None and isinstance(encoder, EncoderChoice):
        tokens = choice.tokens
    with no_network(offline):
        source = source_of(choice.spec, choice.weights)

        def load(wanted: str) -> Encoder[Any]:
            asked = replace(choice, tokens=wanted)
            return load_encoder(asked, device=device, precision=precision, batch_size=batch_size, probing="anew")

        try:
            model = load("all" if tokens is None else tokens)
        except EncoderError as error:
            if tokens is not None or "--tokens" not in str(error):
                raise
            model = load("none")  # the encoder makes no tokens, or cannot return all of them
    if choice.image_size is not None and not model.sees_images:
        raise EncoderError(f"{choice.spec} does not encode images: leave --image-size out.")
    measured = {modality: measure(model, modality, batch_size) for modality in sorted(model.modalities)}
    features = {modality: model.spec(modality, "float16") for modality in measured}
    tried = model.probed is not None
    plain = ModelSpec.parse(choice.spec)
    long = bool(plain.arguments) or plain.transform is not None or known_of(choice.spec) is not None
    with no_network(offline):
        findings = tuple(findings_of(choice)) if long else tuple(filter(None, [warn_of_plain(choice.spec)]))
    found = Examined(
        short_name(choice.spec),
        source,
        model.n_parameters(),
        model.environment(),
        features,
        measured,
        tried,
        choice.spec if long else None,
        findings,
    )
    return DoctorReport(_environment(), found)


def _environment() -> Environment:
    extras = _extras()
    return Environment(
        version("headwater"),
        platform.python_version(),
        f"{platform.system()} {platform.machine()}",
        len(os.sched_getaffinity(0)),
        _memory(),
        _cuda() if extras.get("encoders", {}).get("torch") else None,
        faiss_library(),
        extras,
    )


def _extras() -> dict[str, dict[str, str | None]]:
    """Return the packages of each extra of the installed headwater, with their installed versions.

    Some extras include others; a package is listed under the smallest extra that requires it. `FaissLibrary` describes
    FAISS, of which two extras bring a build each.
    """
    asked: dict[str, list[str]] = defaultdict(list)
    for line in requires("headwater") or ():
        match = re.match(r"([\w.-]+)[^;]*;.*extra == ['\"]([\w-]+)['\"]", line)
        if match and match[1] != "headwater" and not match[1].startswith((CPU, GPU)):
            asked[match[2]].append(match[1])
    found: dict[str, dict[str, str | None]] = {}
    seen: set[str] = set()
    for extra, packages in sorted(asked.items(), key=lambda one: (len(one[1]), one[0])):
        own = [package for package in packages if package not in seen]
        seen.update(own)
        if own:
            found[extra] = {package: _version(package) for package in own}
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _cuda() -> tuple[str, int] | None:
    torch = need("torch", "encoders")
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(), int(torch.cuda.get_device_properties(0).total_memory)


def _prepared_by(spec: FeatureSpec) -> str:
    """Describe the preprocessing that a spec records."""
    settings = spec.preprocessing
    if "tokenizer" in settings and spec.modality == "text":
        length = settings.get("max_length", settings.get("context_length"))
        return f"tokenizer {settings['tokenizer']}, at most {length} tokens"
    if spec.encoder and ModelSpec.parse(spec.encoder).transform is not None:
        return "preprocessed as its spec says"
    inner = settings.get("image_processor", settings)
    known = inner.get("image_processor_type") if isinstance(inner, dict) else None
    return f"preprocessed by {known}" if known else "preprocessed by its own transform"
