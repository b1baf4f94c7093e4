"""Weights of encoders: read them from files, load them into a module, and compute their digests."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater._extras import need
from headwater.errors import EncoderError
from headwater.sources._bounds import require_packed_room

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a torch file that holds only tensors.

    Raises
    ------
    EncoderError
        When the file is missing, cannot be read, or holds something else.
    """
    path = Path(path)
    torch = need("torch", "encoders")
    if not path.is_file():
        raise EncoderError(f"--weights {path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = need("safetensors.torch", "encoders").load_file(path)
        else:
            require_packed_room(path)
            with warnings.catch_warnings():  # about another pickle protocol; unreadable files raise errors
                warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"--weights {path}: the file holds other objects than tensors, and headwater unpickles none. Save the "
            "model's state_dict()."
        ) from error
    except Exception as error:  # the libraries raise many kinds for a damaged file
        raise EncoderError(f"--weights {path}: cannot be read as weights ({first_line(error)}).") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise EncoderError(
            f"--weights {path}: the file holds no state dict, which maps names to tensors. Save the model's "
            "state_dict()."
        )
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def fit_weights(module: nn.Module, state: Mapping[str, Any], source: str, optional: Sequence[str] = ()) -> None:
    """Load ``state`` into ``module``.

    Parameters
    ----------
    optional
        Prefixes of tensors that may be in ``state`` but not in ``module``, such as those of a classifier.

    Raises
    ------
    EncoderError
        When tensors are missing, unknown or have another shape; the message names them.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    extra = [n for n in state if n not in own and not n.startswith(tuple(optional))]
    shapes = [
        f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    require_fit(source, missing, extra, shapes)
    module.load_state_dict({n: t for n, t in state.items() if n in own}, strict=False)


def require_fit(source: str, missing: Sequence[str], extra: Sequence[str], shapes: Sequence[str]) -> None:
    """Raise `EncoderError` if tensors are missing, unknown or have another shape; the message names them."""
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("tensors missing", missing), ("unknown", extra), ("with another shape", shapes))
        if names
    ]
    if problems:
        raise EncoderError(f"{source}: the weights do not fit this model: {'; '.join(problems)}.")


def digest_of(module: nn.Module) -> str:
    """Return a BLAKE2b-128 digest of a module's parameters and buffers, with their shapes.

    Names are left out, since libraries rename parameters between versions.
    """
    parts = []
    for tensor in module.state_dict().values():
        one = blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=16)
        one.update(tensor.detach().cpu().contiguous().view(-1).view(need("torch", "encoders").uint8).numpy().data)
        parts.append(one.digest())
    return blake2b(b"".join(sorted(parts)), digest_size=16).hexdigest()


def digest_of_vocabulary(tokenizer: Any) -> str:
    """Return the BLAKE2b-128 digest of the words of a transformers tokenizer, with their numbers."""
    words = json.dumps(sorted(tokenizer.get_vocab().items()))
    return blake2b(words.encode(), digest_size=16).hexdigest()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without its full stop."""
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".:")
