"""What is known of an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headwater.embed.model_spec import ModelSpec, Transform, Value

Subject = Literal["pathology", "mammography", "medical", "general"]
Runs = Literal["here", "author's code", "not here"]
Precision = Literal["fp32", "fp16", "bf16"]
Licence = Literal["any", "commercial"]
"""What a licence must allow."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
Colours = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of each colour."""


@dataclass(frozen=True)
class Difference:
    """A setting for which another source has another value.

    Attributes
    ----------
    setting
        Such as ``mean`` or ``interpolation``.
    elsewhere
        The other value, and who has it.
    why
        Why the value of this table is used.
    source
        Where that is stated.
    """

    setting: str
    elsewhere: str
    why: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Known:
    """A known encoder.

    Attributes
    ----------
    name
        What ``--encoder`` takes.
    about
        Who made it, from what, with which architecture.
    subject
        The images that it was made for.
    dim
        Length of its vector.
    transform
        How images are prepared; None if the model's own processor decides.
    licence
        The licence of the weights.
    commercial
        Whether the licence allows commercial use; None if it has terms of its own, or sources contradict each other.
    gated
        Whether the hub asks for an account whose owner has accepted terms.
    source
        The model's page.
    spec
        What is loaded, in its long form; None if it does not run here.
    pooling
        How tokens become one vector; None for the model's own pooling.
    pixels
        Height and width of what the encoder sees.
    mpp
        Microns a pixel of the images that it was trained on.
    mpp_stated
        Whether its authors state them; else they are the field's convention.
    n_tokens, n_registers
        Patch tokens of an image, and register tokens, which no pooling includes.
    text
        Whether it encodes texts too.
    precision
        The number format that its authors use or advise.
    weights_file, sha256
        The file of weights at the pinned revision, and its SHA-256 checksum.
    trap
        What goes wrong without this entry, in a sentence.
    differences
        Settings for which the hub or others have another value.
    snippet
        A file for ``python:FILE.py:CLASS``, for an encoder that needs its author's code.
    blocked
        Why it cannot run with the versions that headwater needs.
    """

    name: str
    about: str
    subject: Subject
    dim: int
    licence: str
    commercial: bool | None
    source: str
    pixels: tuple[int, int]
    gated: bool = False
    spec: ModelSpec | None = None
    transform: Transform | None = None
    pooling: str | None = None
    mpp: tuple[float, ...] = ()
    mpp_stated: bool = False
    n_tokens: int | None = None
    n_registers: int = 0
    text: bool = False
    precision: Precision = "fp32"
    weights_file: str | None = None
    sha256: str | None = None
    trap: str = ""
    differences: tuple[Difference, ...] = ()
    snippet: str | None = None
    blocked: str | None = None

    @property
    def runs(self) -> Runs:
        """Where it runs: here by its name, with its author's code, or not with the versions that headwater needs."""
        if self.spec is not None:
            return "here"
        return "author's code" if self.snippet is not None else "not here"

    @property
    def pooled(self) -> str:
        """The pooling, in words."""
        words = {
            "cls": "class token",
            "cls+mean": "class token, joined with the mean of patch tokens (without registers)",
        }
        own = "projected, not normalised" if self.text and self.spec is not None else "the model's own"
        return own if self.pooling is None else words.get(self.pooling, self.pooling)

    @property
    def command(self) -> str:
        """The equal long form, as options of a command."""
        pooling = "" if self.pooling is None else f" --pooling {self.pooling}"
        return f"--encoder '{self.spec}'{pooling}"


def square(side: int, colours: Colours, interpolation: str, *, resize: int | None = None) -> Transform:
    """Return a transform to a central square, by default of the whole shorter side."""
    return Transform((resize or side,), side, interpolation, *colours)


def timm_on_hub(place: str, architecture: str, transform: Transform, **arguments: Value) -> ModelSpec:
    """Return the spec of a timm model on the hub: ``ORG/NAME@REVISION``, and all that it is built with."""
    return ModelSpec("timm", f"hf-hub:{place}", {"architecture": architecture, **arguments}, transform)
