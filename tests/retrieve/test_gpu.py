"""FAISS on a GPU: indexes are those of the CPU, and what cannot be done there is said."""

import numpy as np
import pytest

from headwater.errors import DeviceMemory, InputError
from headwater.retrieve import build_index, load_index, recall_at_10, save_index, tuning
from headwater.retrieve import index as module

faiss = pytest.importorskip("faiss")
from tests.pretended_faiss import install  # noqa: E402

N = 10_000  # enough for codes of 8 bits, the only ones on a GPU
TRAINED = ["ivf", "ivfpq"]


@pytest.fixture(scope="module")
def X():
    """Clusters, with an item that failed and one that is zero."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 16))[rng.integers(0, 80, N)] + 0.7 * rng.normal(size=(N, 16))
    features[5], features[77] = np.nan, 0
    return features.astype(np.float16)


@pytest.fixture(scope="module")
def indexes(X):
    return {kind: build_index(X, kind, device="cpu") for kind in ("flat", "ivf", "hnsw", "ivfpq")}


@pytest.fixture
def gpu(monkeypatch):
    """A pretended GPU, and a build of FAISS that uses it."""
    return install(monkeypatch)


@pytest.fixture
def any_work(monkeypatch):
    """Let any work be worthwhile."""
    monkeypatch.setattr("headwater.retrieve.gpu.WORTHWHILE", 1.0)


def written(index):
    return faiss.serialize_index(index.native).tobytes()


@pytest.mark.parametrize("kind", TRAINED)
def test_an_index_that_is_built_on_a_gpu_is_that_of_the_cpu(kind, gpu, indexes, X):
    """K-means of lists and codes, and the choice of a list for each row, run on the GPU; the index is on the CPU."""
    index = build_index(X, kind, device="cuda")
    assert gpu.trained == [index.native.nlist]
    assert [centres.ntotal for centres in gpu.centres[1:]] == ([256] if kind == "ivfpq" else [])
    assert gpu.found == index.n_vectors == N - 2
    assert written(index) == written(indexes[kind])


@pytest.mark.parametrize("kind", TRAINED)
def test_nothing_stays_on_a_gpu(kind, gpu, X):
    """Parts on the GPU belong to Python again after training, so that their memory is freed."""
    native = build_index(X, kind, device="cuda").native
    assert native.clustering_index is None
    assert len(gpu.centres) == TRAINED.index(kind) + 1
    assert all(centres.thisown for centres in gpu.centres)


def test_an_index_of_a_gpu_is_loaded_without_one(X, tmp_path, monkeypatch):
    """The file holds an index of the CPU."""
    with monkeypatch.context() as patch:
        install(patch)
        index = build_index(X, "ivf", device="cuda")
        save_index(index, tmp_path / "a.faiss", fingerprint="a")
    found = load_index(tmp_path / "a.faiss")
    for mine, theirs in zip(found.search(X[100:110], 5), index.search(X[100:110], 5), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_blocks_without_usable_rows(gpu, X):
    """Rows that failed have no list."""
    rows = np.concatenate([X[:2000], np.full((8192, 16), np.nan)])
    assert build_index(rows, "ivf", device="cuda").n_vectors == 1998


def test_auto_builds_on_a_gpu_if_it_is_worthwhile(gpu, X, monkeypatch):
    """The estimated operations of k-means and of choosing lists decide."""
    work = 2 * 16 * 256 * (10 * N + N)
    monkeypatch.setattr("headwater.retrieve.gpu.WORTHWHILE", work + 1)
    build_index(X, "ivf")
    assert not gpu.centres
    monkeypatch.setattr("headwater.retrieve.gpu.WORTHWHILE", work)
    build_index(X, "ivf")
    assert gpu.centres


def test_auto_goes_without_a_gpu(indexes, X, any_work, monkeypatch):
    """A build for the CPU, and one for a GPU that sees none, build on the CPU."""
    assert written(build_index(X, "ivf")) == written(indexes["ivf"])
    gpu = install(monkeypatch, n_gpus=0)
    assert written(build_index(X, "ivf")) == written(indexes["ivf"])
    assert not gpu.centres


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_kinds_that_are_built_on_the_cpu(kind, gpu, any_work, X):
    """``cuda`` is refused for them, and ``auto`` builds them on the CPU."""
    with pytest.raises(InputError, match=f"--device cuda: FAISS builds an index of kind {kind} on the CPU. Pass"):
        build_index(X, kind, device="cuda")
    assert build_index(X[:500], kind).n_vectors == 498
    assert not gpu.centres


def test_a_build_that_cannot_use_a_gpu(X, monkeypatch):
    """``cuda`` names the installed build, and says what to install."""
    with monkeypatch.context() as patch:
        patch.delattr(faiss, "StandardGpuResources", raising=False)
        with pytest.raises(InputError, match=r"--device cuda: faiss-.* uses only the CPU. Run .*headwater\[gpu\]"):
            build_index(X, "ivf", device="cuda")
    install(monkeypatch, n_gpus=0)
    with pytest.raises(InputError, match=r"--device cuda: faiss-\S+ \S+ sees no GPU. See what nvidia-smi says"):
        build_index(X, "ivf", device="cuda")
    with pytest.raises(InputError, match="auto, cpu or cuda, but is 'gpu'"):
        build_index(X, "flat", device="gpu")


def test_a_full_gpu_when_an_index_is_built(monkeypatch, indexes, any_work, X):
    """Under ``auto`` the CPU builds the index, with a warning; ``cuda`` ends in one line."""
    gpu = install(monkeypatch, memory=10)
    with pytest.warns(UserWarning, match="ivf index: the GPU ran out of memory, so the CPU computes"):
        assert written(build_index(X, "ivf")) == written(indexes["ivf"])
    assert gpu.trained
    with pytest.raises(DeviceMemory, match="ivf index: the GPU ran out of memory") as error:
        build_index(X, "ivf", device="cuda")
    assert "\n" not in str(error.value)


def test_other_errors_of_a_build_are_raised(gpu, monkeypatch, X):
    """An error of FAISS that is not about memory is raised as it is."""
    monkeypatch.setattr("headwater.retrieve.gpu.Lists.add", lambda *_: [][0])
    with pytest.raises(IndexError):
        build_index(X, "ivf", device="cuda")


@pytest.mark.parametrize("kind", ["flat", *TRAINED])
@pytest.mark.parametrize("excluding", [False, True])
def test_a_search_on_a_gpu_finds_what_the_cpu_finds(kind, excluding, gpu, indexes, X):
    """Neighbours are the same, with groups to leave out too, and the copy on the GPU is made once for a call."""
    groups = np.random.default_rng(1).integers(0, 40, N)
    exclude = (groups, groups[100:140]) if excluding else None
    expected = indexes[kind].search(X[100:140], 10, exclude=exclude, device="cpu")
    assert gpu.copies == 0
    found = indexes[kind].search(X[100:140], 10, exclude=exclude, device="cuda")
    assert gpu.copies == 1
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_auto_searches_on_a_gpu_if_it_is_worthwhile(gpu, indexes, X, monkeypatch):
    """The vectors that an index compares decide: all in ``flat``, those of some lists in ``ivf``."""
    for kind, compared in (("flat", N - 2), ("ivf", 256 + (N - 2) * 32 / 256)):
        work = 2 * 40 * 16 * compared
        monkeypatch.setattr("headwater.retrieve.gpu.WORTHWHILE", work + 1)
        indexes[kind].search(X[100:140], 10)
        assert gpu.copies == 0
        monkeypatch.setattr("headwater.retrieve.gpu.WORTHWHILE", work)
        indexes[kind].search(X[100:140], 10)
        assert gpu.copies == 1
        gpu.copies = 0


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("hnsw", {"k": 5}, "an hnsw index only on the CPU"),
        ("flat", {"k": 5, "rows": np.arange(5000)}, "a part of the rows only on the CPU"),
        ("ivf", {"k": 2049}, "for more than 2,048 neighbours only on the CPU"),
        ("ivf", {"k": 257, "exclude": (np.zeros(N), np.ones(2))}, "for more than 256 neighbours only on the CPU"),
    ],
)
def test_searches_that_only_the_cpu_does(kind, asked, said, gpu, any_work, indexes, X):
    """``cuda`` is refused for them, and ``auto`` searches on the CPU."""
    with pytest.raises(InputError, match=said):
        indexes[kind].search(X[100:102], **asked, device="cuda")
    scores, _ = indexes[kind].search(X[100:102], **asked)
    assert np.isfinite(scores).all()
    assert gpu.copies == 0


def test_codes_that_only_the_cpu_has(gpu, any_work, X):
    """An index of codes that FAISS has on no GPU is built there nonetheless, and searched on the CPU."""
    index = build_index(X[:4000], "ivfpq", device="cuda")
    with pytest.raises(InputError, match=r"on a GPU: GPU: only pq.nbits == 8 is supported. Pass 'cpu'") as error:
        index.search(X[100:102], 5, device="cuda")
    assert "\n" not in str(error.value)
    for mine, theirs in zip(index.search(X[100:102], 5), index.search(X[100:102], 5, device="cpu"), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("pieces", [96, 97])
def test_many_pieces(pieces, gpu, monkeypatch):
    """Up to 96 codes for a vector are searched on a GPU, with tables of float16; an index of more is built there."""
    monkeypatch.setattr(module, "_POINTS_PER_CENTRE", 1)
    X = np.random.default_rng(0).normal(size=(300, 4 * pieces)).astype(np.float32)
    index = build_index(X, "ivfpq", device="cuda")
    assert [one.ntotal for one in gpu.centres[1:]] == [256]
    if pieces > 96:
        with pytest.raises(InputError, match=r"sub-quantizers \(97\) is not supported. Pass 'cpu'"):
            index.search(X[:2], 5, device="cuda")
    else:
        assert index.search(X[:2], 5, device="cuda")[1][:, 0].tolist() == [0, 1]


def test_a_full_gpu_when_an_index_is_searched(monkeypatch, indexes, any_work, X):
    """Under ``auto`` the CPU searches, with a warning; ``cuda`` ends in one line."""
    install(monkeypatch, memory=10)
    with pytest.warns(UserWarning, match="search in an index: the GPU ran out of memory, so the CPU computes"):
        _, found = indexes["ivf"].search(X[100:102], 1)
    assert found[:, 0].tolist() == [100, 101]
    with pytest.raises(DeviceMemory, match="search in an index: the GPU ran out of memory"):
        indexes["ivf"].search(X[100:102], 1, device="cuda")


def test_recall_is_measured_against_a_search_on_the_device(gpu, any_work, indexes, X, monkeypatch):
    """The exact search runs where it was asked for, and the index is searched on the CPU, as it will be."""
    exact, devices = tuning.search, []

    def search(*args, device, **named):
        devices.append(device)
        return exact(*args, device="cpu", **named)

    monkeypatch.setattr(tuning, "search", search)
    assert recall_at_10(indexes["ivf"], X, n_queries=20, device="cuda") > 0.9
    assert devices == ["cuda"]
    assert gpu.copies == 0
