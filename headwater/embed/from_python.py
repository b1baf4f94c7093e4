"""A user's own encoder: a class with three methods, in a file or in an installed package."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from headwater._devices import Precision, resolve_device
from headwater.embed.contents import Content
from headwater.embed.encoder import Encoded, Encoder
from headwater.errors import EncoderError, ImageError, MissingExtra, nearest
from headwater.store import KEY_COLUMNS, FeatureSpec, Modality

GROUP = "headwater.encoders"
METHODS = {"load": "load(weights, device)", "prepare": "prepare(modality, item)", "encode": "encode(modality, batch)"}


class PythonEncoder(Encoder[Any]):
    """An encoder defined by a user's class.

    The class lists what it can encode in ``modalities``, such as ``("image",)``, and has three methods.
    ``load(weights, device)`` is called once, with the file of ``--weights`` or None, and with ``cpu`` or ``cuda``.
    ``prepare(modality, item)`` prepares an image (PIL, mode RGB) or a text; it is called from several threads at once,
    and raises ValueError for an invalid item. ``encode(modality, batch)`` returns an array of shape ``(n, dim)`` for a
    list of n prepared items.

    Parameters
    ----------
    name
        ``FILE.py:CLASS``, or the name of an entry point of the group ``headwater.encoders``.
    """

    probes = True

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        tokens: str = "none",
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.name = f"python:{name}"
        if tokens != "none":
            raise EncoderError(f"{self.name} has no tokens. Leave --tokens out.")
        if precision != "auto":
            raise EncoderError(f"{self.name} chooses its precision itself. Leave --precision out.")
        if weights is not None and not Path(weights).is_file():
            raise EncoderError(f"--weights {weights}: no such file.")
        kind, code = _found(name, self.name)
        self.modalities = _modalities_of(kind, self.name)
        self._code = blake2b(code, digest_size=16).hexdigest()
        self._weights = None if weights is None else Path(weights).resolve()
        self._digest = "" if weights is None else blake2b(Path(weights).read_bytes(), digest_size=16).hexdigest()
        try:
            self._device = resolve_device(device)
        except MissingExtra:  # an encoder without torch must not require it
            self._device = "cpu"
        self._own = self._call("load", lambda: _made(kind, self._weights, self._device))
        self._dims = {modality: self._tried(modality) for modality in sorted(self.modalities)}

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return the spec of these features, with digests of the file's code and of the weights."""
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            weights=self._digest,
            preprocessing=self.with_steps({"code": self._code}) if modality == "image" else {"code": self._code},
            pooling="own",
            dim=self._dims[modality],
            dtype=dtype,
        )

    def prepare(self, modality: Modality, content: Content) -> Any:
        """Call the class's ``prepare`` for an image or a text.

        Raises
        ------
        ImageError
            When an image cannot be read, or the class raises ValueError.
        """
        item = self.image_of(content) if modality == "image" else content.text()
        try:
            return self._own.prepare(modality, item)
        except ValueError as error:
            raise ImageError(f"{self.name}: {_line(error)}: {content.source}") from error
        except Exception as error:
            raise EncoderError(f"{self.name}: prepare() failed ({_line(error)}): {content.source}") from error

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Encoded:
        """Call the class's ``encode`` for prepared items."""
        made = self._call("encode", lambda: np.asarray(self._own.encode(modality, list(batch)), np.float32))
        if made.ndim != 2 or len(made) != len(batch) or not made.shape[1]:
            raise EncoderError(
                f"{self.name}: encode() returned shape {made.shape} for {len(batch)} items, but must return shape "
                f"({len(batch)}, dim)."
            )
        return Encoded(made)

    def environment(self) -> dict[str, Any]:
        """Return versions, device, and the weights file if there is one."""
        values = {"numpy": np.__version__, "python": sys.version.split()[0], "device": self._device}
        return values if self._weights is None else {**values, "weights_file": str(self._weights)}

    def _call(self, method: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            raise EncoderError(f"{self.name}: {method}() failed ({_line(error)}).") from error

    def _tried(self, modality: Modality) -> int:
        """Encode a synthetic item, and return the length of its vector."""
        item: Any = "a" if modality == "text" else Image.linear_gradient("L").convert("RGB")
        ready = self._call("prepare", partial(self._own.prepare, modality, item))
        return int(self.encode(modality, [ready]).pooled.shape[1])


def _made(kind: type, weights: Path | None, device: str) -> Any:
    own = kind()
    own.load(weights, device)
    return own


def _found(name: str, spec: str) -> tuple[type, bytes]:
    """Return the class, and the code of its file."""
    file, colon, attribute = name.rpartition(":")
    if colon:
        path = Path(file)
        if not path.is_file():
            raise EncoderError(f"{spec}: {file}: no such file. Write python:FILE.py:CLASS.")
        code = path.read_bytes()
        return _class_in(_run(path, code, spec), attribute, file, spec), code
    known = {point.name: point for point in entry_points(group=GROUP)}
    if name not in known:
        there = f"Installed are: {', '.join(sorted(known))}." if known else "None is installed."
        raise EncoderError(
            f"{spec}: no installed package has an encoder of this name.{nearest(name, known)} {there} "
            "For one in a file, write python:FILE.py:CLASS."
        )
    try:
        kind = known[name].load()
    except Exception as error:
        raise EncoderError(f"{spec}: {known[name].value} cannot be imported ({_line(error)}).") from error
    if not isinstance(kind, type):
        raise EncoderError(f"{spec}: {known[name].value} is not a class.")
    return kind, Path(inspect.getfile(kind)).read_bytes()


def _run(path: Path, code: bytes, spec: str) -> ModuleType:
    """Run a file as a separate module, from the same bytes that are digested."""
    module = ModuleType(f"headwater_encoder_{blake2b(bytes(path.resolve()), digest_size=8).hexdigest()}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look up their module
    try:
        exec(compile(code, str(path), "exec"), module.__dict__)
    except Exception as error:
        raise EncoderError(f"{spec}: {path} cannot be run ({_line(error)}).") from error
    return module


def _class_in(module: ModuleType, name: str, file: str, spec: str) -> type:
    kinds = [n for n, kind in vars(module).items() if isinstance(kind, type) and kind.__module__ == module.__name__]
    found = vars(module).get(name)
    if not isinstance(found, type):
        there = f"It has: {', '.join(kinds)}." if kinds else "It has none."
        raise EncoderError(f"{spec}: {file} has no class {name!r}.{nearest(name, kinds)} {there}")
    return found


def _modalities_of(kind: type, spec: str) -> frozenset[Modality]:
    lacking = [call for name, call in METHODS.items() if not callable(getattr(kind, name, None))]
    if lacking:
        raise EncoderError(
            f"{spec}: {kind.__name__} has no {' and '.join(lacking)}. "
            "See the page 'Your own encoder' of the documentation."
        )
    given = getattr(kind, "modalities", None)
    allowed = KEY_COLUMNS  # pairs are for decoders only
    if not isinstance(given, (tuple, list, set, frozenset)) or not given or not set(given) <= set(allowed):
        raise EncoderError(
            f'{spec}: {kind.__name__}.modalities must be ("image",), ("text",) or ("image", "text"), not {given!r}.'
        )
    return frozenset(given)


def _line(error: BaseException) -> str:
    """Return the type and first line of an error."""
    said = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
