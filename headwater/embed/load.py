"""Load an encoder from its spec; all encoders are loaded here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from headwater._checks import whole_in
from headwater._devices import Precision, resolve_device
from headwater._options import with_options
from headwater.embed._preprocess import jpeg_decoder
from headwater.embed.adapter import Adapter, read_adapter
from headwater.embed.choice import EncoderChoice, encoder_choice
from headwater.embed.encoder import CHOICES, CLIP, WHOLE, Encoder
from headwater.embed.fetched import folder_on_hub, weights_in
from headwater.embed.gate import admit, admit_weights, unasked
from headwater.embed.known import KNOWN, known_of, nearest_names, require_licence
from headwater.embed.model_spec import ModelSpec
from headwater.embed.pooling import POOLINGS
from headwater.embed.probe import require_sound
from headwater.errors import EncoderError, nearest
from headwater.sources.steps import BY_TORCH, parse_steps
from headwater.store import FeatureSpec

Probing = Literal["once", "anew", "unkept", "never"]
BACKENDS = {
    "timm": "headwater.embed.from_timm:TimmEncoder",
    "torchvision": "headwater.embed.from_torchvision:TorchvisionEncoder",
    "open_clip": "headwater.embed.from_open_clip:OpenClipEncoder",
    "hf": "headwater.embed.hub:hub_encoder",
    "python": "headwater.embed.from_python:PythonEncoder",
    "joined": "headwater.embed.joined:JoinedEncoder",
    "builtin": "headwater.embed.builtin:builtin_encoder",
    "stub": "headwater.embed.builtin:StubEncoder",
}
CLIP_BACKEND = "headwater.embed.from_hub:builtin_clip"
OPTIONS: Mapping[str, Sequence[str]] = {
    "timm": ("layer", "pooling", "image_size"),
    "torchvision": ("pooling",),
    "open_clip": ("pooling", "image_size", "trust_remote_code"),
    "hf": ("layer", "pooling", "prompt", "image_size", "trust_remote_code"),
    "joined": ("trust_remote_code",),
}
"""Options of an encoder besides the model, by back end."""
PLACED = ("timm", "open_clip", "hf")
"""Back ends whose models are in a folder or on the hub; those after the first load a folder as a whole."""


def load_encoder(
    spec: str | EncoderChoice,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    named_by: str | None = None,
    batch_size: int = 1,
    probing: Probing = "once",
    **options: Any,
) -> Encoder[Any]:
    """Build an encoder; all encoders are built here.

    Parameters
    ----------
    spec
        An encoder spec, or an `EncoderChoice`.
    device
        ``auto``, ``cpu`` or ``cuda``.
    precision
        ``auto`` uses bf16 if the device is fast at it and a first batch shows that it is safe.
    named_by
        The store or run that names the encoder, which may come from somebody else; None if the user names it.
    batch_size
        Number of items that will be encoded together; the test encodes as many.
    probing
        ``once`` tests the encoder on synthetic items unless the user's cache says that it has passed; ``anew`` always
        tests it; ``unkept`` is like ``once`` but does not write to the cache; ``never`` does not test it.
    options
        Any field of `EncoderChoice` by its name, such as ``weights`` or ``layer``.

    Raises
    ------
    EncoderError
        When the spec names no encoder, the weights do not fit, code that the user has not allowed would run, or the
        test shows that its features cannot be used.
    """
    choice: EncoderChoice = with_options("load_encoder", options, encoder_choice(spec))
    if precision not in get_args(Precision):
        raise EncoderError(f"precision must be {', '.join(get_args(Precision))}, but is {precision!r}.")
    backend = _backend_of(choice)
    require_licence(choice.spec, choice.licence)
    model = ModelSpec.parse(choice.spec)
    named = model.plain
    chosen = {option: getattr(choice, option) for option in (*CHOICES, "trust_remote_code")}
    chosen["image_size"] = parse_image_size(choice.image_size)
    if named_by is None:
        _refuse_options(named, backend, chosen)
    if not (model.arguments or (backend in PLACED[1:] and _is_folder(choice.weights))):  # else the hub is not asked
        admit(named, named_by=named_by, trusted=choice.trust_remote_code)
    name, weights = _place_of(model, choice, named_by)
    module, _, attribute = (CLIP_BACKEND if named == CLIP else BACKENDS[backend]).partition(":")
    build = getattr(import_module(module), attribute)
    steps = parse_steps(choice.steps, named_by=named_by)
    if steps is not None and backend == "stub":
        raise EncoderError(f"{named} reads no pixels. Leave --step out.")
    arguments: dict[str, Any] = {}
    if _has_weights(choice, backend):
        if backend != "python":
            resolve_device(device)  # before anything is downloaded
        arguments = {"weights": weights, "tokens": choice.tokens, "device": device, "precision": precision}
    tuned = None
    if choice.adapter is not None:
        tuned = read_adapter(choice.adapter, choice.spec)
        _take_over(tuned, chosen)
        steps = tuned.steps_with(steps)
    if arguments and backend != "python":
        arguments["adapter"] = tuned
    arguments |= {option: chosen[option] for option in OPTIONS.get(backend, ())}
    arguments |= {} if model.transform is None else {"transform": model.transform}
    arguments |= {"arguments": model.arguments} if model.arguments else {}
    with unasked(backend, choice.trust_remote_code):
        built: Encoder[Any] = build(name, **arguments)
    if backend in PLACED:
        built.name = choice.spec  # wherever its files are
    built.recorded = _recorded(choice)
    own = [option for option in CHOICES if option in OPTIONS.get(backend, ())]
    built.choices = {option: str(chosen[option]) for option in own if chosen[option] is not None}
    if tuned is not None:
        built.tuned = tuned  # type: ignore[attr-defined]
    if steps is not None and not built.sees_images:
        raise EncoderError(f"{named} reads no images. Leave --step out.")
    if steps is not None and steps.jpeg_by_torch:
        if not getattr(getattr(built, "_pipeline", None), "of_torch", False):
            raise EncoderError(
                f"{named}: --step {BY_TORCH} goes with encoders of timm, torchvision and open_clip that resize and "
                "crop images. Leave it out."
            )
        jpeg_decoder()  # refuses that it is missing, before anything is read
    if probing != "never":
        built.probed = require_sound(built, batch_size, anew=probing == "anew", keep=probing != "unkept")
    built.steps = None if steps is None else steps.for_size(built.resizes_to)
    return built


def _backend_of(choice: EncoderChoice) -> str:
    """Return the back end that a spec names."""
    spec, tokens = choice.spec, choice.tokens
    backend, colon, name = spec.partition(":")
    if spec in KNOWN:  # one that has no spec here
        raise _not_here(spec)
    if not colon and (close := nearest_names(spec)):
        raise EncoderError(f"unknown encoder {spec!r}.{close} For all known encoders, run headwater encoders.")
    if backend not in BACKENDS:
        raise EncoderError(
            f"unknown encoder {spec!r}.{nearest(backend, BACKENDS)} "
            "Write a name that headwater encoders lists, or BACKEND:NAME, such as timm:mobilenetv2_100, with BACKEND "
            f"one of {', '.join(BACKENDS)}."
        )
    if not name:
        raise EncoderError(f"encoder {spec!r} names no model. Write {backend}:NAME.")
    if tokens not in ("none", "all") and not whole_in(tokens):
        raise EncoderError(f"tokens must be none, all or a number, but is {tokens!r}.")
    return backend


def _not_here(name: str) -> EncoderError:
    """Return the error for a known encoder that headwater cannot load by itself."""
    if KNOWN[name].snippet is None:
        return EncoderError(f"{name} does not run here: {KNOWN[name].blocked}.")
    return EncoderError(
        f"{name} needs code of its authors. Save the file that headwater encoders {name} prints, and pass --encoder "
        "python:FILE.py:CLASS."
    )


def _place_of(model: ModelSpec, choice: EncoderChoice, named_by: str | None) -> tuple[str, str | Path | None]:
    """Return the model's name for its back end, and its file of weights, from a folder or a revision on the hub."""
    weights = choice.weights
    if not _is_folder(weights):
        if weights is not None and named_by is not None:
            admit_weights(weights, named_by)
        revised = model.backend in PLACED[1:] and model.repository is not None and model.repository[1] is not None
        if weights is None and revised:
            return _in_folder(model, folder_on_hub(model)), None
        return model.name, weights
    if model.backend not in PLACED[1:]:
        file = weights if model.backend == "python" else weights_in(weights)
        if named_by is not None:
            admit_weights(file, named_by)
        return model.name, weights
    if model.backend == "open_clip" and model.repository is None:
        return model.name, weights_in(weights)
    place = _in_folder(model, Path(weights))
    admit(f"{model.backend}:{place}", named_by=named_by, trusted=choice.trust_remote_code)
    return place, None


def _is_folder(weights: str | Path | None) -> TypeGuard[str | Path]:
    return isinstance(weights, str | Path) and Path(weights).is_dir()


def _in_folder(model: ModelSpec, folder: Path) -> str:
    """Return the name by which a back end loads a folder."""
    return f"local-dir:{folder}" if model.backend == "open_clip" else str(folder)


def _recorded(choice: EncoderChoice) -> dict[str, str]:
    """Return what is recorded of the choice but is no part of the spec."""
    known = known_of(choice.spec)
    recorded = {} if known is None else {"encoder_name": known.name}
    if choice.weights is not None and _is_folder(choice.weights):
        recorded["weights_file"] = str(Path(choice.weights).resolve())
    return recorded


def _has_weights(choice: EncoderChoice, backend: str) -> bool:
    """Whether an encoder has weights; raise if it has none but options for weights are given."""
    spec = choice.spec
    if backend not in ("builtin", "stub") or spec == CLIP:
        if backend == "python" and choice.adapter is not None:
            raise EncoderError(f"{spec} cannot have an adapter. Leave --adapter out.")
        return True
    if choice.weights is not None:
        raise EncoderError(f"{spec} has no weights. Leave --weights out.")
    if choice.adapter is not None:
        raise EncoderError(f"{spec} has no weights to adapt. Leave --adapter out.")
    if choice.tokens != "none":
        raise EncoderError(f"{spec} has no tokens. Leave --tokens out.")
    return False


def _take_over(tuned: Adapter, chosen: dict[str, Any]) -> None:
    """Add the choices that an adapter was trained with; raise if the given ones differ."""
    size = chosen["image_size"]
    if tuned.image_size is not None and size not in (None, tuned.image_size):
        height, width = tuned.image_size
        raise EncoderError(
            f"--adapter {tuned.path} was trained on images of {height} x {width} pixels. Leave --image-size out."
        )
    chosen["image_size"] = size or tuned.image_size
    for option, value in tuned.choices.items():
        asked = chosen[option]  # one of CHOICES
        # the spec of a feature set writes stages as stage2+stage4
        if asked not in (None, value) and str(asked) != value.replace(",", "+"):
            raise EncoderError(f"--adapter {tuned.path} was trained with {value!r}. Leave --{option} out.")
        chosen[option] = value


def parse_image_size(asked: str | int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return height and width from ``N``, ``HxW`` or both numbers.

    Raises
    ------
    EncoderError
        When it has another form.
    """
    if asked is None:
        return None
    if isinstance(asked, str | int):
        words = str(asked).lower().split("x")
    else:
        words = [str(number) for number in asked] if isinstance(asked, list | tuple) else []
    if not 0 < len(words) <= 2 or not all(re.fullmatch(r"0*[1-9]\d{0,6}", word, re.ASCII) for word in words):
        raise EncoderError(f"image size {asked!r} must be pixels, N, or height and width, HxW, such as 1024x512.")
    return int(words[0]), int(words[-1])


def _refuse_options(spec: str, backend: str, options: Mapping[str, Any]) -> None:
    """Raise for a given option that no encoder of this back end has."""
    for option, value in options.items():
        if value and option not in OPTIONS.get(backend, ()):
            having = " and ".join(f"{name}:…" for name, names in OPTIONS.items() if option in names)
            name = option.replace("_", "-")
            raise EncoderError(f"{spec} does not support --{name}, which is for {having}. Leave it out.")


def load_again(
    spec: FeatureSpec,
    *,
    named_by: str = "a store",
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Encoder[Any]:
    """Build the encoder that made features, from their spec, with its layer, pooling and prompt.

    Parameters
    ----------
    named_by
        The store that holds the spec, which may come from somebody else.

    Raises
    ------
    EncoderError
        When the spec names no encoder, the weights do not fit, or code would run that the user has not allowed.
    """
    choice = choice_again(spec, weights=weights, adapter=adapter, trust_remote_code=trust_remote_code)
    return load_encoder(choice, device=device, named_by=named_by)


def choice_again(
    spec: FeatureSpec,
    *,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
    trust_remote_code: bool = False,
) -> EncoderChoice:
    """Return the choice of encoder that made features, from their spec, with its layer, pooling and prompt.

    Raises
    ------
    EncoderError
        When the features were imported, so that no encoder made them here.
    """
    if spec.encoder.startswith("imported:"):
        raise EncoderError(
            f"these features were imported from {spec.preprocessing.get('source', 'elsewhere')}, so no encoder can "
            "embed more items. Import the missing vectors: headwater import."
        )
    prompt = spec.preprocessing.get("prompt")
    return EncoderChoice(
        spec.encoder,
        weights=weights,
        adapter=adapter,
        tokens=spec.tokens,
        layer=None if spec.layer in WHOLE else spec.layer,
        pooling=spec.pooling if prompt is not None or spec.pooling in POOLINGS else None,
        prompt=prompt,
        image_size=spec.preprocessing.get("image_size"),
        steps=spec.preprocessing.get("steps", ()),
        trust_remote_code=trust_remote_code,
    )
