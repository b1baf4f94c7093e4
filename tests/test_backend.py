"""Where arrays are computed, and what happens where there is no GPU, or one whose memory is too small."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from headwater import _backend
from headwater._backend import NUMPY, backend_for, computed
from headwater._devices import resolve_device
from headwater.errors import DeviceMemory, InputError

torch = pytest.importorskip("torch")
from tests.pretended import DEVICE, in_place_of_cuda, pretended  # noqa: E402


@pytest.fixture
def gpu(monkeypatch):
    """A pretended device in place of a CUDA device."""
    in_place_of_cuda(monkeypatch)


def test_a_pretended_device_does_not_mix_with_the_cpu():
    """Tensors of the two devices meet only by being copied, as on a GPU."""
    with pretended() as device:
        there = torch.zeros(3, device=device)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError):
            np.asarray(there)
        assert ((there + 1).cpu() == torch.ones(3)).all()


def test_only_worthwhile_work_moves_to_a_gpu(gpu):
    """``auto`` takes a GPU for work above a limit; the CPU and a GPU can both be requested."""
    assert backend_for("auto", _backend.WORTHWHILE / 2) is NUMPY
    assert backend_for("auto", _backend.WORTHWHILE).device == DEVICE
    assert backend_for("cpu", 1e20) is NUMPY
    assert backend_for("cuda", 1).device == DEVICE


def test_a_missing_gpu_is_said(monkeypatch):
    """``cuda`` without a GPU says what was found and what to do; ``auto`` computes on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"--device cuda: torch .*or pass --device cpu") as error:
        resolve_device("cuda")
    assert "\n" not in str(error.value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES hides all GPUs"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(InputError, match="built for the CPU"):
        resolve_device("cuda")
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        resolve_device("gpu")


def test_a_full_gpu_is_said_or_replaced_by_the_cpu(gpu):
    """A GPU that is too small ends a computation that requested it; under auto, the CPU takes over, which is said."""

    def compute(backend):
        return backend.zeros(1000, backend.xp.float64).shape[0], backend.is_numpy

    with pretended(memory=7999):
        with pytest.raises(DeviceMemory, match="sums: the GPU ran out of memory"):
            computed(compute, "cuda", work=1, what="sums")
        with pytest.warns(UserWarning, match="sums: the GPU ran out of memory, so the CPU computes"):
            assert computed(compute, "auto", work=1e15, what="sums") == (1000, True)
    with pretended(memory=8000), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert computed(compute, "cuda", work=1, what="sums") == (1000, False)


def test_other_errors_are_not_taken_for_a_full_gpu(gpu):
    """An error of the computation itself is raised as it is."""

    def compute(backend):
        raise RuntimeError("no inverse")

    with pytest.raises(RuntimeError, match="no inverse"):
        computed(compute, "auto", work=1e15, what="sums")


def test_torch_is_not_imported_to_find_that_there_is_no_gpu():
    """Asking for ``auto``, and computing with NumPy under it, starts no library that takes seconds to load."""
    code = """
import sys
import numpy as np
from headwater._devices import require_device, resolve_device
from headwater.heads import LinearProbe
require_device("auto")
X = np.random.default_rng(0).standard_normal((50, 4))
LinearProbe().fit(X, X[:, 0] > 0).predict(X)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("kind", ["linear", "ridge", "knn", "prototypes", "gda"])
def test_heads_take_tensors(kind):
    """A tensor is fitted and predicted as the same NumPy array is, with its device's arrays."""
    from headwater.heads import make_head

    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 5)).astype(np.float32)
    y = X[:, 0] if kind == "ridge" else (X[:, 0] > 0).astype(int)
    expected = make_head(kind, {}, regression=kind == "ridge").fit(X, y)
    with pretended() as device:
        tensor = torch.asarray(X).to(device)
        head = make_head(kind, {}, regression=kind == "ridge").fit_many(tensor, y, [(np.arange(80), {})])[0]
        name = "predict_many" if kind == "ridge" else "predict_proba_many"
        (found,) = getattr(type(head), name)([head], tensor, [np.arange(80)])
    own = expected.predict(X) if kind == "ridge" else expected.predict_proba(X)
    np.testing.assert_allclose(found, own, atol=2e-3)
