"""Choose the encoder class for a model on the Hugging Face hub by the kind of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater._devices import Precision
from headwater._extras import need
from headwater.embed._torch import quiet_libraries
from headwater.embed.encoder import CLIP, Encoder
from headwater.embed.from_decoder import DecoderEncoder
from headwater.embed.from_hub import HubEncoder
from headwater.embed.gate import admit, needs_code, unasked
from headwater.embed.model_spec import ModelSpec, Transform
from headwater.embed.sentence import declared, model_place
from headwater.embed.weights import first_line
from headwater.errors import EncoderError, HeadwaterError

if TYPE_CHECKING:
    from headwater.embed.adapter import Adapter


def hub_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    adapter: Adapter | None = None,
    tokens: str = "none",
    layer: str | None = None,
    pooling: str | None = None,
    prompt: str | None = None,
    image_size: tuple[int, int] | None = None,
    transform: Transform | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    trust_remote_code: bool = False,
) -> Encoder[Any]:
    """Build ``hf:NAME``: a vision-language decoder, a dual encoder, a vision model or a text model.

    Raises
    ------
    EncoderError
        When it cannot be loaded, or has no such layer, pooling or prompt.
    """
    spec = f"hf:{name}"
    sentence = declared(name, spec) if pooling is None else None
    place = model_place(name, sentence)
    with loading(spec), quiet_libraries():
        config = need("transformers", "encoders").AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    if is_decoder(config):
        if transform is not None:
            raise EncoderError(f"{spec} is a vision-language decoder, which prepares images itself. Leave ?… out.")
        if image_size is not None:
            raise EncoderError(
                f"{spec} reads images in their own aspect ratio. Leave --image-size out, or pass --step resize=HxW."
            )
        with loading(spec):
            try:
                return DecoderEncoder(
                    name,
                    weights=weights,
                    adapter=adapter,
                    tokens=tokens,
                    layer=layer,
                    pooling=pooling,
                    prompt=prompt,
                    device=device,
                    precision=precision,
                    trust_remote_code=trust_remote_code,
                )
            except (AttributeError, IndexError, KeyError, TypeError) as error:  # a model with another interface
                raise EncoderError(
                    f"{spec}: a {config.model_type} model cannot be used as an encoder ({first_line(error)})."
                ) from error
    asked = {"--layer": layer, "--prompt": prompt}
    if given := [option for option, value in asked.items() if value is not None]:
        raise EncoderError(
            f"{spec} is a {config.model_type} model, not a vision-language decoder. Leave {' and '.join(given)} out."
        )
    with loading(spec):
        return HubEncoder(
            name,
            weights=weights,
            adapter=adapter,
            tokens=tokens,
            pooling=pooling,
            sentence=sentence,
            image_size=image_size,
            transform=transform,
            device=device,
            precision=precision,
            trust_remote_code=trust_remote_code,
        )


def tokens_of_text(spec: str, text: str, *, named_by: str) -> list[str] | None:
    """Return the tokens of a text by the tokenizer of ``hf:NAME``, from local files; None if it cannot be loaded.

    ``builtin:clip`` has its tokenizer in the package.

    Parameters
    ----------
    named_by
        The store that names the encoder. Code of the model's author is not run.
    """
    model = ModelSpec.parse(f"hf:{Path(__file__).with_name('clip')}" if spec == CLIP else spec)
    name, revision = model.repository or (model.name, None)
    try:
        admit(model.plain, named_by=named_by)
        with unasked("hf", trusted=False), quiet_libraries():
            auto = need("transformers", "encoders").AutoTokenizer
            tokenizer = auto.from_pretrained(name, revision=revision, local_files_only=True, trust_remote_code=False)
            return list(tokenizer.convert_ids_to_tokens(tokenizer(text, truncation=True)["input_ids"]))
    except (HeadwaterError, ImportError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # for example a damaged folder; the caller then shows numbers instead of words


def is_decoder(config: Any) -> bool:
    """Whether a configuration describes a model that reads images and words in one causal sequence, like Qwen2-VL."""
    auto = need("transformers.models.auto.modeling_auto", "encoders")
    if config.model_type not in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or config.is_encoder_decoder:
        return False
    kind = auto.MODEL_MAPPING.get(type(config), None)
    return isinstance(kind, type) and not hasattr(
        kind, "get_text_features"
    )  # a dual encoder that also generates text, like BLIP, has it


@contextmanager
def loading(spec: str) -> Iterator[None]:
    """Turn the errors of transformers in loading a model into a one-line error.

    Raises
    ------
    EncoderError
        Also when the model needs its author's code, which the user has not allowed.
    """
    try:
        yield
    except Exception as error:  # the libraries raise many kinds for what they cannot use
        if isinstance(error, HeadwaterError):
            raise
        if "trust_remote_code" in str(error):
            raise needs_code(spec) from error
        raise EncoderError(
            f"{spec}: cannot be loaded ({first_line(error)}). Without a network, give a directory: hf:DIRECTORY."
        ) from error
