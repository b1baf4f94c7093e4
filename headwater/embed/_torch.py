"""Torch modules that only ever predict: loaded, frozen, moved and run in one place."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater._devices import fast_at_bf16, resolve_device
from headwater._extras import need
from headwater.errors import EncoderError, HeadwaterError
from headwater.sources._bounds import require_packed_room

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch import dtype as TorchType

    from headwater.embed.adapter import Adapter
    from headwater.embed.encoder import Precision

SAFE_COSINE = 0.999
TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Frozen:
    """A module in evaluation mode, without gradients, on its device and in its precision.

    Parameters
    ----------
    module
        Any torch module, its parameters in float32.
    device
        ``auto``, ``cpu`` or ``cuda``.
    precision
        ``fp32``, ``bf16``, ``fp16``; ``auto`` starts in fp32 until `settle` has tried bf16.
    weights
        The file that the parameters were read from, when a user named one.
    adapter, name
        What training changed, to be put into the module of the encoder ``name``.

    Attributes
    ----------
    digest
        Of the module as it came.
    adapter
        The digest of the adapter, or None.
    logit_scale
        What a dual encoder multiplies cosines by, or None.
    """

    def __init__(
        self,
        module: nn.Module,
        device: str,
        precision: Precision,
        weights: str | Path | None = None,
        adapter: Adapter | None = None,
        name: str = "",
    ) -> None:
        self.device = resolve_device(device)
        self.digest = digest_of(module)
        self.adapter = None if adapter is None else adapter.digest
        if adapter is not None:
            adapter.apply(module, self.digest, name)
        scale: Any = getattr(module, "logit_scale", None)
        self.logit_scale = None if scale is None else float(scale.detach().exp())
        self.precision: str = "fp32" if precision == "auto" else precision
        self.n_parameters = sum(parameter.numel() for parameter in module.parameters())
        self._open = precision == "auto"
        self._files = {} if weights is None else {"weights_file": str(Path(weights).resolve())}
        if adapter is not None and adapter.path is not None:
            self._files["adapter_file"] = str(adapter.path)
        # Cast first: a model that fits the device in its precision may not fit it in fp32.
        frozen = _channels_last(module.eval().requires_grad_(False).to(self.dtype).to(self.device))
        if self.device == "cpu":
            _convolve_by_onednn(frozen)
        self.module: nn.Module = frozen
        self._modules: dict[str, nn.Module] = {self.precision: self.module}

    @property
    def dtype(self) -> TorchType:
        """The floating-point type that the module computes in."""
        named: TorchType = getattr(_torch(), TYPES[self.precision])
        return named

    def run(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Call ``function(module, *inputs)`` without gradients."""
        with _torch().inference_mode():
            return function(self.module, *inputs)

    def settle(self, encode: Callable[[Any], Tensor]) -> None:
        """Choose between fp32 and bf16, when that was left open, by what bf16 changes in pooled vectors.

        Parameters
        ----------
        encode
            Makes pooled features, of shape ``(n, dim)``, with the module that it is given and inputs of `dtype`.
        """
        if not self._open or not fast_at_bf16(self.device):
            return
        self._use("fp32")
        exact = self.run(encode).float()
        self._use("bf16")
        cosine = _torch().nn.functional.cosine_similarity(exact, self.run(encode).float(), dim=1)
        if not bool((cosine >= SAFE_COSINE).all()):
            self._use("fp32")
            del self._modules["bf16"]

    def restore(self, environment: Mapping[str, Any]) -> None:
        """Take over the precision of an earlier run, when it was left open."""
        if self._open:
            self._use(environment.get("precision", "fp32"))

    def _use(self, precision: str) -> None:
        """Compute in ``precision`` from now on; the module in fp32 is kept, for what is asked next."""
        self.precision = precision
        if precision not in self._modules:
            self._modules[precision] = copy.deepcopy(self._modules["fp32"]).to(self.dtype)
        self.module = self._modules[precision]

    def environment(self, library: str) -> dict[str, Any]:
        """Return versions of torch and ``library``, device, precision, and the files that a user named."""
        torch = _torch()
        name = torch.cuda.get_device_name() if self.device == "cuda" else platform.machine()
        values: dict[str, Any] = {
            "torch": torch.__version__,
            library: need(library, "encoders").__version__,
            "device": f"{self.device} ({name})",
            "precision": self.precision,
        }
        return {**values, **self._files}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep off the terminal what model libraries log and count while they load; what matters of it is raised.

    Whoever has set up logging still gets open_clip's and timm's records: the handler that is added drops its own copy
    only. open_clip logs through the root logger, which without any handler would be given one for good.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        with _quiet_transformers():
            yield
    finally:
        root.removeHandler(handler)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    if "transformers" not in sys.modules:
        yield
        return
    library, hub = need("transformers.utils.logging", "encoders"), need("huggingface_hub.utils", "encoders")
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    downloads = not hub.are_progress_bars_disabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    if downloads:
        hub.enable_progress_bars()  # a download may take minutes and is worth a bar
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
        if not downloads:
            hub.disable_progress_bars()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch operations of threads that start in the body run on their own thread alone."""
    torch = _torch()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict: safetensors, or a torch file without anything but tensors.

    Raises
    ------
    EncoderError
        When the file is missing, cannot be read, or holds something else.
    """
    path = Path(path)
    torch = _torch()
    if not path.is_file():
        raise EncoderError(f"--weights {path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = need("safetensors.torch", "encoders").load_file(path)
        else:
            require_packed_room(path)
            with warnings.catch_warnings():  # of a file by another pickle protocol; what cannot be read is an error
                warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"--weights {path}: not a file of tensors alone. Nothing is unpickled here: save the model's state_dict()."
        ) from error
    except Exception as error:  # the libraries raise many kinds for a damaged file
        raise EncoderError(f"--weights {path}: cannot be read as weights ({first_line(error)}).") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise EncoderError(f"--weights {path}: holds no state dict, which maps names to tensors.")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def fit_weights(module: nn.Module, state: Mapping[str, Any], source: str, optional: Sequence[str] = ()) -> None:
    """Load ``state`` into ``module``.

    Parameters
    ----------
    optional
        Prefixes of tensors that may be in ``state`` without being in ``module``, such as a classifier's.

    Raises
    ------
    EncoderError
        When tensors are missing, left over or of another shape; the message names them.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    extra = [n for n in state if n not in own and not n.startswith(tuple(optional))]
    shapes = [
        f"{n} {tuple(state[n].shape)} where {tuple(own[n].shape)} belongs"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    require_fit(source, missing, extra, shapes)
    module.load_state_dict({n: t for n, t in state.items() if n in own}, strict=False)


def require_fit(source: str, missing: Sequence[str], extra: Sequence[str], shapes: Sequence[str]) -> None:
    """Raise `EncoderError`, naming them, when tensors are missing, left over or of another shape."""
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("tensors missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise EncoderError(f"{source}: the weights do not fit this model: {'; '.join(problems)}.")


def digest_of(module: nn.Module) -> str:
    """Return a BLAKE2b-128 digest of a module's parameters and buffers, with their shapes.

    Names are left out: libraries rename parameters from version to version, and the values are what counts.
    """
    parts = []
    for tensor in module.state_dict().values():
        one = blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=16)
        one.update(tensor.detach().cpu().contiguous().view(-1).view(_torch().uint8).numpy().data)
        parts.append(one.digest())
    return blake2b(b"".join(sorted(parts)), digest_size=16).hexdigest()


def digest_of_vocabulary(tokenizer: Any) -> str:
    """Return the BLAKE2b-128 digest of the words of a transformers tokenizer, with their numbers."""
    words = json.dumps(sorted(tokenizer.get_vocab().items()))
    return blake2b(words.encode(), digest_size=16).hexdigest()


def to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    """Return a tensor as float32 on the CPU."""
    values: NDArray[np.float32] = tensor.float().cpu().numpy()
    return values


@contextmanager
def fitting(spec: str, size: tuple[int, int] | None) -> Iterator[None]:
    """Turn what a model raises at images of a size that it cannot take into one line; without a size, nothing.

    Raises
    ------
    EncoderError
        Which names the size.
    """
    try:
        yield
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if size is None or isinstance(error, HeadwaterError):
            raise
        height, width = size
        raise EncoderError(
            f"{spec}: cannot see images of {height} x {width} pixels ({first_line(error)}). Try a multiple of its "
            "patches, such as 32 or 14 pixels, or its own size: leave --image-size out."
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without its full stop."""
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".:")


def _channels_last(module: nn.Module) -> nn.Module:
    """Lay kernels of two-dimensional convolutions out as they are fastest; those over video frames cannot be."""
    for part in module.modules():
        if isinstance(part, _torch().nn.Conv2d):
            part.to(memory_format=_torch().channels_last)
    return module


def _convolve_by_onednn(module: nn.Module) -> None:
    """Let oneDNN do 1 x 1 convolutions on one thread, too: half as long again is what torch's own way takes.

    Torch leaves fp32 convolutions of fewer than 16 images to oneDNN when they are dilated, among others, and a single
    point has nothing to dilate.
    """
    for part in module.modules():
        if isinstance(part, _torch().nn.Conv2d) and part.kernel_size == (1, 1):
            part.dilation = (2, 2)


def convolve_as_before(module: nn.Module) -> None:
    """Undo `_convolve_by_onednn` where gradients are wanted: backwards, dilation makes it many times as slow."""
    for part in module.modules():
        if isinstance(part, _torch().nn.Conv2d) and part.kernel_size == (1, 1):
            part.dilation = (1, 1)


def _torch() -> Any:
    return need("torch", "encoders")
