"""Prompts of decoders: words around an image, around a text, or around both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from headwater.errors import EncoderError
from headwater.store import Modality

PLACES = re.compile(r"(\{image\}|\{text\})")
DEFAULT_PROMPTS: dict[Modality, str] = {
    "image": "{image}Summary of the image above in one word:",
    "text": "{text}\nSummary of the text above in one word:",
}
"""After Jiang et al., E5-V: Universal Embeddings with Multimodal Large Language Models, 2024, section 3.1."""

TEXT = "\ue000"
"""A private character that stands for the text while the chat template is applied; no template uses it."""


def prompts_of(prompt: str | None, spec: str) -> dict[Modality, str]:
    """Return the prompt of each modality that ``prompt`` serves; for None, the default prompts.

    Raises
    ------
    EncoderError
        When the prompt does not contain ``{image}``, ``{text}``, or both, once each.

    Examples
    --------
    >>> prompts_of("{image} The tissue is", "hf:a/b")
    {'image': '{image} The tissue is'}
    >>> prompts_of("{image} Report: {text}", "hf:a/b")
    {'pair': '{image} Report: {text}'}
    """
    if prompt is None or prompt in DEFAULT_PROMPTS.values():
        return dict(DEFAULT_PROMPTS)
    of: Mapping[tuple[str, ...], Modality] = {
        ("{image}",): "image",
        ("{text}",): "text",
        ("{image}", "{text}"): "pair",
    }
    places = tuple(sorted(PLACES.findall(prompt)))
    if places not in of:
        raise EncoderError(
            f"{spec}: --prompt {prompt!r} must contain {{image}} or {{text}} once, or each of both once to read them "
            "together."
        )
    return {of[places]: prompt}


def rendered(prompt: str, processor: Any, spec: str) -> str:
    """Apply the model's chat template to a prompt, with `TEXT` in place of the text.

    Without a template, the prompt stays as it is, with the model's image token in place of the image.

    Raises
    ------
    EncoderError
        When the model has neither a chat template nor an image token.
    """
    parts = [part for part in PLACES.split(prompt) if part]
    if getattr(processor, "chat_template", None):
        content = [
            {"type": "image"} if part == "{image}" else {"type": "text", "text": part.replace("{text}", TEXT)}
            for part in parts
        ]
        talk = [{"role": "user", "content": content}]
        written: str = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        return written
    token = getattr(processor, "image_token", None)
    if not isinstance(token, str):
        raise EncoderError(
            f"{spec}: the model has no chat template and no image token, so it cannot read images. Choose another one."
        )
    return prompt.replace("{image}", token).replace("{text}", TEXT)


def plain_words(text: str, special: list[str]) -> str:
    """Return a text in which no word is a special token of the model.

    Examples
    --------
    >>> plain_words("an <image> of", ["<image>"])
    'an < image> of'
    """
    for token in special:
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text.replace(TEXT, " ")
