"""Torch modules for inference only: frozen, moved to a device and run in one place."""

from __future__ import annotations

import copy
import logging
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater._devices import fast_at_bf16, resolve_device
from headwater._extras import need
from headwater.embed.weights import digest_of, first_line
from headwater.errors import EncoderError, HeadwaterError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch import dtype as TorchType

    from headwater._devices import Precision
    from headwater.embed.adapter import Adapter

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
        The file that the parameters were read from, if the user named one.
    adapter, name
        The adapter to apply to the module of the encoder ``name``.

    Attributes
    ----------
    digest
        Digest of the module before the adapter was applied.
    adapter
        Digest of the adapter, or None.
    logit_scale
        The factor by which a dual encoder multiplies cosines, or None.
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
        # Cast before moving: in fp32, the model may not fit on the device.
        frozen = _channels_last(module.eval().requires_grad_(False).to(self.dtype).to(self.device))
        if self.device == "cpu":
            _convolve_by_onednn(frozen)
        self.module: nn.Module = frozen
        self._modules: dict[str, nn.Module] = {self.precision: self.module}

    @property
    def dtype(self) -> TorchType:
        """The floating-point type that the module computes in."""
        named: TorchType = getattr(need("torch", "encoders"), TYPES[self.precision])
        return named

    def run(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Call ``function(module, *inputs)`` without gradients."""
        with need("torch", "encoders").inference_mode():
            return function(self.module, *inputs)

    def settle(self, encode: Callable[[Any], Tensor]) -> None:
        """For precision ``auto``, choose bf16 if it hardly changes the pooled vectors, else fp32.

        Parameters
        ----------
        encode
            Returns pooled features, of shape ``(n, dim)``, from a given module and inputs of `dtype`.
        """
        if not self._open or not fast_at_bf16(self.device):
            return
        self._use("fp32")
        exact = self.run(encode).float()
        self._use("bf16")
        cosine = need("torch", "encoders").nn.functional.cosine_similarity(exact, self.run(encode).float(), dim=1)
        if not bool((cosine >= SAFE_COSINE).all()):
            self._use("fp32")
            del self._modules["bf16"]

    def restore(self, environment: Mapping[str, Any]) -> None:
        """For precision ``auto``, use the precision of an earlier run."""
        if self._open:
            self._use(environment.get("precision", "fp32"))

    def _use(self, precision: str) -> None:
        """Compute in ``precision`` from now on; the fp32 module is kept for later changes."""
        self.precision = precision
        if precision not in self._modules:
            self._modules[precision] = copy.deepcopy(self._modules["fp32"]).to(self.dtype)
        self.module = self._modules[precision]

    def environment(self, library: str) -> dict[str, Any]:
        """Return the versions of torch and ``library``, the device, the precision, and the files the user named."""
        torch = need("torch", "encoders")
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
    """Keep log messages and progress bars of model libraries off the terminal while they load models.

    Errors are still raised. Users who have configured logging still get the records of open_clip and timm, since the
    handler that is added only drops its own copy. It is needed because open_clip logs through the root logger, which
    would otherwise get a permanent handler.
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
        hub.enable_progress_bars()  # downloads may take minutes, so they keep their bar
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
    """Limit the torch operations of each thread that starts in the body to that thread."""
    torch = need("torch", "encoders")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    """Return a tensor as float32 on the CPU."""
    values: NDArray[np.float32] = tensor.float().cpu().numpy()
    return values


@contextmanager
def fitting(spec: str, size: tuple[int, int] | None) -> Iterator[None]:
    """Turn the errors of a model that cannot read images of ``size`` into a one-line error; do nothing without a size.

    Raises
    ------
    EncoderError
        The message names the size.
    """
    try:
        yield
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if size is None or isinstance(error, HeadwaterError):
            raise
        height, width = size
        raise EncoderError(
            f"{spec}: cannot read images of {height} x {width} pixels ({first_line(error)}). Give a multiple of the "
            "patch size, such as 14 or 32 pixels, or leave --image-size out."
        ) from error


def _channels_last(module: nn.Module) -> nn.Module:
    """Store kernels of two-dimensional convolutions channels last, which is fastest; 3D kernels cannot be stored so."""
    for part in module.modules():
        if isinstance(part, need("torch", "encoders").nn.Conv2d):
            part.to(memory_format=need("torch", "encoders").channels_last)
    return module


def _convolve_by_onednn(module: nn.Module) -> None:
    """Make torch compute 1 x 1 convolutions with oneDNN on one thread too; its own code takes 1.5 times as long.

    Torch uses oneDNN for fp32 convolutions of fewer than 16 images if they are dilated, among other cases. Dilation
    does not change a 1 x 1 kernel.
    """
    for part in module.modules():
        if isinstance(part, need("torch", "encoders").nn.Conv2d) and part.kernel_size == (1, 1):
            part.dilation = (2, 2)


def convolve_as_before(module: nn.Module) -> None:
    """Undo `_convolve_by_onednn` for training, since dilation makes the backward pass many times slower."""
    for part in module.modules():
        if isinstance(part, need("torch", "encoders").nn.Conv2d) and part.kernel_size == (1, 1):
            part.dilation = (1, 1)
