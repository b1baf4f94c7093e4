"""Vision-language decoders as encoders: hidden states of a language model are pooled, and no text is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._checks import whole_in
from headwater._devices import Precision
from headwater._extras import need
from headwater.embed._prompt import TEXT, plain_words, prompts_of, rendered
from headwater.embed._torch import Frozen, quiet_libraries
from headwater.embed.contents import Content
from headwater.embed.from_hub import plain_settings
from headwater.embed.tunable import TorchFeatures, Tunable
from headwater.embed.weights import digest_of_vocabulary, load_state, require_fit
from headwater.errors import EncoderError, ImageError, nearest
from headwater.store import FeatureSpec, Modality

if TYPE_CHECKING:
    from torch import Tensor

    from headwater.embed.adapter import Adapter

POOLINGS = ("last-token", "mean-image-tokens", "mean")
LONGEST_TRIED = 512
"""Most tokens of the text in the test: a decoder's context may be vast, and it has no table of positions to exceed."""
IMAGE_TOKENS = ("image_token_id", "image_token_index")
SAME = 1e-6  # relative to the largest value; vectors that differ by less count as equal


@dataclass(frozen=True)
class Sequenced:
    """One item as model input: arrays whose first axis is the batch, and whether its text was truncated."""

    arrays: Mapping[str, NDArray[Any]]
    cut: bool = False

    def __len__(self) -> int:
        return int(self.arrays["input_ids"].shape[1])


class DecoderEncoder(Tunable[Sequenced]):
    """A vision-language model of transformers that reads images and words in one causal sequence.

    The model reads a prompt with the item once, and the hidden states of one layer are pooled. No text is generated,
    and the language-model head is not loaded.

    Parameters
    ----------
    name
        ``ORG/NAME`` on the hub, or a local directory.
    layer
        ``last``, after the final norm; or the number of a decoder layer, from 1.
    pooling
        ``last-token``: the state of the last token, which attends to all others. ``mean-image-tokens``: the mean over
        the image's tokens. ``mean``: the mean over all tokens.
    prompt
        Words around ``{image}`` or ``{text}``, or around both to read an image and its text together. The model's chat
        template is applied to it.

    References
    ----------
    Jiang et al., E5-V: Universal Embeddings with Multimodal Large Language Models, 2024.
    """

    library = "transformers"

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        adapter: Adapter | None = None,
        tokens: str = "none",
        layer: str | None = None,
        pooling: str | None = None,
        prompt: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        need("transformers", "encoders")
        self.name = f"hf:{name}"
        self._prompts = prompts_of(prompt, self.name)
        self._pooling = _pooling_of(pooling, self._prompts, self.name)
        if tokens != "none":
            raise EncoderError(f"{self.name} is a decoder, whose tokens cannot be stored. Leave --tokens out.")
        with quiet_libraries():
            model, self._processor = _build(name, self.name, weights, trust_remote_code)
        words = model.config.get_text_config()
        self._layer = _layer_of(layer, int(words.num_hidden_layers), self.name)
        tokenizer = self._processor.tokenizer
        self._special = sorted(set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._pad = int(tokenizer.pad_token_id or 0)
        self._max_length = min(int(words.max_position_embeddings), int(tokenizer.model_max_length))
        self._vocabulary = digest_of_vocabulary(tokenizer)
        self.longest = min(self._max_length, LONGEST_TRIED)
        self._image_token = _image_token_of(model.config, self._processor)
        self._written = {m: rendered(prompt, self._processor, self.name) for m, prompt in self._prompts.items()}
        self.modalities = frozenset(self._prompts)
        if self._pooling == "mean-image-tokens":
            self.modalities -= {"text"}
        self._named: dict[Modality, list[str]] = {}
        self._frozen = Frozen(model, device, precision, weights, adapter, self.name)
        self.threads_own_cores = self._frozen.device == "cpu"
        one: Modality = min(self.modalities)
        try:
            self._dim = self.encode(one, [self._example(one)]).pooled.shape[1]
        except ImageError as error:
            raise EncoderError(f"{self.name}: --prompt is too long: {error}.") from error
        if self._pooling == "mean-image-tokens" and not all(map(self._sees, self.modalities)):
            raise EncoderError(f"{self.name} has no image tokens. Pass --pooling last-token or mean.")
        if self._pooling == "mean-image-tokens" and "pair" in self.modalities:
            self._refuse_blind()

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return the spec of these features, with layer, pooling and prompt."""
        settings: dict[str, Any] = {
            "prompt": self._prompts[modality],
            "template": self._written[modality].replace(TEXT, "{text}"),
            "tokenizer": type(self._processor.tokenizer).__name__,
            "vocabulary": self._vocabulary,
        }
        if modality != "text":
            settings["image_processor"] = plain_settings(self._processor.image_processor.to_dict())
        if modality != "image":
            settings["max_length"] = self._max_length
        return FeatureSpec(
            encoder=self.name,
            modality=modality,
            weights=self._frozen.digest,
            adapter=self._frozen.adapter,
            preprocessing=settings if modality == "text" else self.with_steps(settings),
            layer=self._layer,
            pooling=self._pooling,
            dim=self._dim,
            dtype=dtype,
        )

    def towers(self) -> Mapping[Modality, Sequence[str]]:
        """Return the whole model for each modality, since images and words go through all of it."""
        return dict.fromkeys(self.modalities, ("",))

    def prepare(self, modality: Modality, content: Content) -> Sequenced:
        """Put an image, a text or both into the prompt, as pixels and token ids.

        Raises
        ------
        ImageError
            When an image cannot be read, has a shape that the model does not support, or leaves no room for its text.
        """
        if modality == "text":
            return self.prepare_text(content.text())
        try:
            return self.prepare_seen(modality, self.image_of(content), content)
        except ImageError as error:
            if str(content.source) in str(error):
                raise
            raise ImageError(f"{error}: {content.source}") from error

    def prepare_image(self, image: Image.Image) -> Sequenced:
        """Put an image into the prompt."""
        return self._shown("image", image)

    def prepare_text(self, text: str) -> Sequenced:
        """Put a text into the prompt."""
        return self._put("text", None, text)

    def prepare_seen(self, modality: Modality, image: Image.Image, content: Content) -> Sequenced:
        """Put an image that was read before, and for a pair its text, into the prompt."""
        return self.prepare_image(image) if modality == "image" else self._shown("pair", image, content.text())

    def collate(self, modality: Modality, batch: Sequence[Sequenced]) -> tuple[Tensor, ...]:
        """Return the items as one batch: the processor's tensors, sorted by name."""
        together = self._together(batch)
        return tuple(together[name] for name in self._names(modality))

    def features(self, module: Any, modality: Modality, inputs: tuple[Tensor, ...]) -> TorchFeatures:
        """Return pooled states of a collated batch."""
        return TorchFeatures(self._read(module, dict(zip(self._names(modality), inputs, strict=True))))

    def _names(self, modality: Modality) -> list[str]:
        """Return the names of the processor's tensors, sorted."""
        if modality not in self._named:
            self._named[modality] = sorted(self._example(modality).arrays)
        return self._named[modality]

    def _example(self, modality: Modality) -> Sequenced:
        return self._put(modality, None if modality == "text" else Image.new("RGB", (64, 64)), "a")

    def _sees(self, modality: Modality) -> bool:
        """Whether an item has image tokens."""
        return self._image_token >= 0 and bool((self._example(modality).arrays["input_ids"] == self._image_token).any())

    def cut(self, modality: Modality, content: Content, prepared: Sequenced) -> bool:
        """Whether the end of a text was truncated."""
        return prepared.cut

    def _shown(self, modality: Modality, image: Image.Image, text: str = "") -> Sequenced:
        try:
            return self._put(modality, image, text)
        except ImageError:
            raise
        except ValueError as error:
            size = f"{image.width} x {image.height} pixels"
            raise ImageError(f"{self.name} cannot read an image of {size} ({error})") from error

    def _refuse_blind(self) -> None:
        """Raise if the pooled states do not depend on the text, because it follows the image."""
        image = Image.new("RGB", (64, 64))
        one, other = (self.encode("pair", [self._put("pair", image, text)]).pooled for text in "ab")
        if np.abs(one - other).max() <= SAME * np.abs(one).max():
            raise EncoderError(
                f"{self.name}: --pooling mean-image-tokens would ignore the text, since image tokens do not attend to "
                "text after them. Put {text} before {image}, or pass --pooling last-token or mean."
            )

    def _put(self, modality: Modality, image: Image.Image | None, text: str = "") -> Sequenced:
        """Return an item in its prompt; the text is truncated if the sequence exceeds the context."""
        written, words, cut = self._written[modality], plain_words(text, self._special), False
        arrays = self._processed(written.replace(TEXT, words), image)
        while modality != "image" and (over := arrays["input_ids"].shape[1] - self._max_length) > 0 and words:
            places = self._processor.tokenizer(
                words, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )["offset_mapping"]
            words, cut = words[: places[-over][0]] if over < len(places) else "", True
            if image is not None and not words.strip():
                raise ImageError(
                    f"an image of {image.width} x {image.height} pixels leaves no room for its text in the "
                    f"{self._max_length:,} tokens that {self.name} reads"
                )
            arrays = self._processed(written.replace(TEXT, words), image)
        return Sequenced(arrays, cut)

    def _processed(self, words: str, image: Image.Image | None = None) -> dict[str, NDArray[Any]]:
        bos = self._processor.tokenizer.bos_token
        made = self._processor(
            text=[words],
            images=None if image is None else [image],
            add_special_tokens=not (bos and words.startswith(bos)),
            return_tensors="np",
            verbose=False,  # no warning, since long texts are truncated here
        )
        return {name: np.asarray(value) for name, value in made.items()}

    def _together(self, batch: Sequence[Sequenced]) -> dict[str, Tensor]:
        """Return the items as one batch, each array padded at its end to the largest of them.

        Padding is at the end because a causal model's tokens do not attend to what follows them. So an item's states
        are the same as without padding.
        """
        torch = need("torch", "encoders")
        tensors = {}
        for name, first in batch[0].arrays.items():
            parts = [item.arrays[name] for item in batch]
            largest = np.max([part.shape[1:] for part in parts], axis=0)
            fill = self._pad if name == "input_ids" else 0
            value = torch.from_numpy(np.concatenate([_padded(part, largest, fill) for part in parts]))
            kind = self._frozen.dtype if first.dtype.kind == "f" else None
            tensors[name] = value.to(self._frozen.device, kind)
        return tensors

    def _read(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Return pooled states, of shape ``(n, dim)``."""
        torch = need("torch", "encoders")
        out = model(**inputs, use_cache=False, output_hidden_states=self._layer != "last")
        hidden = (out.last_hidden_state if self._layer == "last" else out.hidden_states[int(self._layer)]).float()
        mask = inputs["attention_mask"]
        if hidden.shape[:2] != mask.shape:
            raise EncoderError(
                f"{self.name}: returns {hidden.shape[1]} states for {mask.shape[1]} tokens, so they cannot be matched. "
                "Choose another model."
            )
        if self._pooling == "last-token":
            last = mask.sum(1) - 1
            chosen: Tensor = hidden[torch.arange(len(hidden), device=hidden.device), last]
            return chosen
        counted = mask if self._pooling == "mean" else inputs["input_ids"].eq(self._image_token)
        weights = counted[:, :, None].float()
        mean: Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return mean


def _padded(array: NDArray[Any], largest: NDArray[np.int64], fill: int) -> NDArray[Any]:
    width = [(0, 0), *((0, int(to) - have) for to, have in zip(largest, array.shape[1:], strict=True))]
    return np.pad(array, width, constant_values=fill)


def _image_token_of(config: Any, processor: Any) -> int:
    """Return the id of the token that stands for a part of an image; -1 if there is none.

    The model's configuration is read first, since a processor may use the same name for the token before an image.
    """
    named = (getattr(source, name, None) for source in (config, processor) for name in IMAGE_TOKENS)
    return next((int(number) for number in named if number is not None), -1)


def _pooling_of(pooling: str | None, prompts: Mapping[Modality, str], spec: str) -> str:
    if pooling is None:
        return POOLINGS[0]
    if pooling not in POOLINGS:
        raise EncoderError(
            f"{spec}: --pooling {pooling!r}.{nearest(pooling, POOLINGS)} There are: {', '.join(POOLINGS)}."
        )
    if pooling == "mean-image-tokens" and not {"image", "pair"} & set(prompts):
        raise EncoderError(f"{spec}: --pooling mean-image-tokens needs an image in the prompt. Put {{image}} in it.")
    return pooling


def _layer_of(layer: str | None, n_layers: int, spec: str) -> str:
    """Return ``last``, or the number of an earlier layer."""
    if layer in (None, "last", str(n_layers)):
        return "last"
    number = whole_in(layer)
    if number is None or not 0 < number < n_layers:
        raise EncoderError(f"{spec}: --layer {layer} must be last, or a number from 1 to {n_layers}.")
    return str(number)


def _build(name: str, spec: str, weights: str | Path | None, trust_remote_code: bool) -> tuple[Any, Any]:
    """Build a model without its language-model head, and its processor."""
    transformers = need("transformers", "encoders")
    state = None if weights is None else load_state(weights)
    config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    processor = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    kind = transformers.AutoModel
    if state is not None:
        kind = need("transformers.models.auto.modeling_auto", "encoders").MODEL_MAPPING[type(config)]
    model, report = kind.from_pretrained(
        name if state is None else None,
        config=config,
        state_dict=state,
        dtype="float32",
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are named below
        weights_only=True,
        trust_remote_code=trust_remote_code,
    )
    shapes = sorted(f"{n} {tuple(own)} instead of {tuple(ours)}" for n, own, ours in report["mismatched_keys"])
    require_fit(spec if weights is None else f"--weights {weights}", sorted(report["missing_keys"]), (), shapes)
    return model, processor
