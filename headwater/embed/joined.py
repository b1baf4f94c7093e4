"""Two encoders joined by contrastive training: one for images, one for texts, projected into a common space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._devices import Precision
from headwater._extras import need
from headwater._reading import read_json
from headwater.embed.adapter import FOLDER, Adapter
from headwater.embed.contents import Content
from headwater.embed.encoder import Encoded, Encoder
from headwater.embed.gate import file_of
from headwater.embed.load import load_encoder
from headwater.embed.weights import first_line
from headwater.errors import EncoderError
from headwater.store import FeatureSpec, Modality

FORMAT = 1
JOINED, TENSORS = "joined.json", "joined.safetensors"


@dataclass(frozen=True, eq=False)
class Joint:
    """The description of two joined encoders.

    Attributes
    ----------
    parts
        For each modality, how its encoder is loaded: ``encoder``, ``weights`` and, if it was trained, the number of its
        ``adapter`` in the run.
    projections
        For each modality, the projection into the common space, float32, of shape ``(dim, d)``.
    logit_scale
        The factor by which cosines are multiplied.
    """

    parts: Mapping[str, Mapping[str, Any]]
    projections: Mapping[str, NDArray[np.float32]]
    logit_scale: float

    def write(self, run: Path) -> None:
        """Write the description into a run's folder of encoders."""
        values = {"format": FORMAT, "parts": self.parts, "logit_scale": self.logit_scale}
        (run / FOLDER).mkdir(parents=True, exist_ok=True)
        need("safetensors.numpy", "encoders").save_file(dict(self.projections), run / FOLDER / TENSORS)
        (run / FOLDER / JOINED).write_text(json.dumps(values, indent=2) + "\n")

    @classmethod
    def read(cls, run: Path) -> Joint:
        """Read the description from a run.

        Raises
        ------
        EncoderError
            When the run has none, or it cannot be read.
        """
        try:
            values = read_json(file_of(run, FOLDER, JOINED))
            tensors = need("safetensors.numpy", "encoders").load_file(file_of(run, FOLDER, TENSORS))
            if values["format"] != FORMAT:
                raise EncoderError(
                    f"joined:{run} has format {values['format']}; this headwater reads format {FORMAT}. Upgrade it."
                )
            for modality in ("image", "text"):
                _require_part(values["parts"][modality], tensors[modality])
            parts = {modality: values["parts"][modality] for modality in ("image", "text")}
            return cls(parts, tensors, float(values["logit_scale"]))
        except EncoderError:
            raise
        except FileNotFoundError as error:
            raise EncoderError(
                f"joined:{run}: there are no joined encoders. Run: headwater contrast … with two --encoder, --out {run}"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, need("safetensors", "encoders").SafetensorError) as error:
            raise EncoderError(f"joined:{run}: cannot be read ({first_line(error)}).") from error


def _require_part(part: Mapping[str, Any], projection: NDArray[Any]) -> None:
    """Raise `ValueError` unless the description of a part is as `Joint.write` writes it."""
    number = part["adapter"]
    if not isinstance(part["encoder"], str) or not (part["weights"] is None or isinstance(part["weights"], str)):
        raise ValueError("encoder and weights must be strings")
    if not isinstance(part["steps"], list):
        raise ValueError("steps must be a list")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
        raise ValueError(f"{number!r} is not the number of an adapter")
    if projection.ndim != 2 or projection.dtype != np.float32:
        raise ValueError(f"a projection must be float32 (dim, d), but is {projection.dtype} {projection.shape}")


class JoinedEncoder(Encoder[Any]):
    """An image encoder and a text encoder with projections into a common space.

    Pooled features are the projections, not yet normalised. Tokens are those of the encoders, not projected.

    Parameters
    ----------
    name
        A run of ``contrast`` on two encoders.
    """

    modalities = frozenset[Modality]({"image", "text"})
    probes = True

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        adapter: Adapter | None = None,
        tokens: str = "none",
        device: str = "auto",
        precision: Precision = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        self.name, self.tokens = f"joined:{name}", tokens
        if weights is not None or adapter is not None:
            raise EncoderError(f"{self.name} has its own weights. Leave --weights and --adapter out.")
        run = Path(name)
        self._joint = Joint.read(run)
        self._parts: dict[str, Encoder[Any]] = {}
        for modality, part in self._joint.parts.items():
            tuned = None if part["adapter"] is None else run / FOLDER / str(part["adapter"])
            self._parts[modality] = load_encoder(
                part["encoder"],
                weights=part["weights"],
                adapter=tuned,
                tokens=tokens,
                device=device,
                precision=precision,
                steps=part["steps"],
                image_size=part.get("image_size"),
                trust_remote_code=trust_remote_code,
                named_by=self.name,
                probing="never",  # the joined encoder is tested as a whole, with its projections
            )
        self._require_dims()
        digest = blake2b(digest_size=16)
        for modality, encoder in sorted(
            self._parts.items()
        ):  # one digest of both, since images and texts belong together
            own = encoder.spec("image" if modality == "image" else "text", "float32")
            digest.update(f"{own.weights} {own.adapter}".encode())
            digest.update(self._joint.projections[modality].astype("<f4").tobytes())
        self._weights = digest.hexdigest()
        self.longest = self._parts["text"].longest
        self.threads_own_cores = all(part.threads_own_cores for part in self._parts.values())

    def _require_dims(self) -> None:
        """Raise unless the encoders' modalities and lengths fit the projections, which must have a common length."""
        sides: tuple[Modality, ...] = ("image", "text")
        for modality in sides:
            encoder, projection = self._parts[modality], self._joint.projections[modality]
            if modality not in encoder.modalities:
                raise EncoderError(f"{self.name}: {encoder.name} does not encode {modality}s.")
            dim = encoder.spec(modality, "float32").dim
            if projection.shape[1] != dim or len(projection) != len(self._joint.projections["image"]):
                raise EncoderError(
                    f"{self.name}: a projection of shape {projection.shape} does not fit the {dim} values of "
                    f"{encoder.name}."
                )

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return the spec of these features, which includes that of the encoder and the projection."""
        own = self._parts[modality].spec(modality, dtype)
        whose = {"encoder": own.encoder, "weights": own.weights, "adapter": own.adapter}
        return replace(
            own,
            encoder=self.name,
            weights=self._weights,
            adapter=None,
            layer="last",
            pooling="projection",
            preprocessing={**own.preprocessing, "of": {**whose, "layer": own.layer, "pooling": own.pooling}},
            dim=int(self._joint.projections[modality].shape[0]),
            logit_scale=self._joint.logit_scale,
        )

    def prepare(self, modality: Modality, content: Content) -> Any:
        """Prepare an item for its encoder."""
        return self._parts[modality].prepare(modality, content)

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Encoded:
        """Encode prepared items, and project them."""
        found = self._parts[modality].encode(modality, batch)
        return replace(found, pooled=found.pooled @ self._joint.projections[modality].T)

    def length(self, modality: Modality, prepared: Any) -> int:
        """Return how many tokens of a text are stored."""
        return self._parts[modality].length(modality, prepared)

    def cut(self, modality: Modality, content: Content, prepared: Any) -> bool:
        """Whether the end of a text was truncated."""
        return self._parts[modality].cut(modality, content, prepared)

    def settle(self, modality: Modality, batch: Sequence[Any]) -> None:
        """Let the encoder choose its precision."""
        self._parts[modality].settle(modality, batch)

    def architecture(self) -> str:
        """Return the architecture of both encoders."""
        return "\n".join(part.architecture() for _, part in sorted(self._parts.items()))

    def environment(self) -> dict[str, Any]:
        """Return the environments of both encoders."""
        return {modality: part.environment() for modality, part in self._parts.items()}

    def restore(self, environment: Mapping[str, Any]) -> None:
        """Use the precision of an earlier run."""
        for modality, part in self._parts.items():
            part.restore(environment.get(modality, {}))
