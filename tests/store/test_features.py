"""A feature set: rows are given out once, blocks are made in any order, the journal alone is believed."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import SpecMismatch, StoreBusy, StoreError
from headwater.store import BlockResult, FeatureSpec, create_store, open_store
from headwater.store.check import wrong_metadata

DIM = 8


def spec(**changes):
    return FeatureSpec(**{"encoder": "stub:8", "modality": "image", "dim": DIM, **changes})


def keys_of(numbers):
    """Distinct 16-byte keys, in an order unlike that of the numbers."""
    return np.stack([np.frombuffer(((n * 2654435761) % 2**128).to_bytes(16, "little"), np.uint8) for n in numbers])


def vectors(rows, dim=DIM):
    return (np.asarray(rows)[:, None] * 10 + np.arange(dim)).astype(np.float16)


def write(features, keys, order=1, failed=(), only=None, lengths=None):
    """Fill what is to do; item values are a function of the row, so that any order must give the same bytes."""
    with features.writing() as writer:
        writer.set_environment({"test": 1})
        tasks = writer.plan(keys, lengths)[::order][:only]
        for task in tasks:
            tokens = None
            if writer.features.spec.ragged:
                tokens = [vectors(np.arange(writer.features.tokens.lengths[r]) + r, 3) for r in task.rows]
            elif writer.features.spec.has_tokens:
                tokens = vectors(np.repeat(task.rows, 2), 3).reshape(len(task.rows), 2, 3)
            why = {r: "truncated image" for r in task.rows.tolist() if r in failed}
            writer.commit(task, BlockResult(task.rows, vectors(task.rows), tokens, why))
    return features.refresh()


def test_every_row_reads_back(store):
    """What was committed is what is read: by row, by slice, by blocks, as a whole."""
    keys = keys_of(range(300))
    features = write(store.require_features("f/image", spec(), 300), keys)
    expected = vectors(np.arange(300))
    assert features.block_rows == 64
    assert np.array_equal(features.pooled[:], expected)
    assert np.array_equal(features.pooled[[299, 0, 130, 130]], expected[[299, 0, 130, 130]])
    assert np.array_equal(features.pooled[60:70], expected[60:70])
    assert np.array_equal(features.pooled[::-7], expected[::-7])
    assert np.array_equal(features.pooled[-1], expected[-1])
    assert np.array_equal(np.concatenate([values for _, values in features.pooled.blocks()]), expected)
    assert np.array_equal(features.rows_of(keys[::-1]), np.arange(300)[::-1])
    assert list(features.verify()) == []


def test_few_keys_are_found_as_many_are(store):
    """However many keys are looked for, each is found in its row, and one that nobody has in none."""
    keys = np.random.default_rng(0).integers(0, 256, (3000, 16), np.uint8)
    keys[::3, :2] = keys[0, :2]  # many begin alike
    features = write(store.require_features("f/image", spec(), 3000), keys)
    for n_wanted in (0, 1, 3, 11, 3000):
        rows = np.random.default_rng(1).permutation(3000)[:n_wanted]
        strange = keys[rows].copy()
        strange[:, -1] ^= 1
        assert np.array_equal(features.refresh().rows_of(keys[rows]), rows)
        assert np.array_equal(features.refresh().rows_of(strange), np.full(n_wanted, -1))


def test_asking_for_a_block_changes_nothing(store):
    """A block can be asked for ahead, whether it is there, not made yet, or gone from this disk."""
    features = write(store.require_features("f/image", spec(), 300), keys_of(range(300)), only=2)
    features.pooled.chunk_path(1).unlink(missing_ok=True)
    for block in range(features.n_blocks):
        features.pooled.ask_for(block)
    assert np.array_equal(features.pooled[:64], vectors(np.arange(64)))
    assert np.isnan(features.pooled[128:]).all()


def test_long_rows_are_gathered_in_any_order(store):
    """Rows of many bytes, which are copied one by one, come as they were asked for, twice where asked for twice."""
    long = spec(dim=5000)
    features = store.require_features("f/image", long, 300)
    with features.writing() as writer:
        for task in writer.plan(keys_of(range(300))):
            writer.commit(task, BlockResult(task.rows, vectors(task.rows % 7, 5000)))
    rows = np.array([299, 0, 130, 5, 0, 64, -1])
    assert np.array_equal(features.refresh().pooled[rows], vectors(rows % 300 % 7, 5000))
    assert features.refresh().pooled[rows[:0]].shape == (0, 5000)


def test_rows_in_a_block_are_not_copied(store):
    """A slice inside one block is a view of the mapped file, and cannot be written to."""
    features = write(store.require_features("f/image", spec(), 300), keys_of(range(300)))
    part = features.pooled[64:128]
    assert part.base is not None
    with pytest.raises(ValueError, match="read-only"):
        part[0, 0] = 1


def test_a_row_out_of_range_is_refused(store):
    """Rows that do not exist raise IndexError as numpy's do, and never wrap round."""
    features = write(store.require_features("f/image", spec(), 10), keys_of(range(10)))
    for rows in ([10], [-11], [0, 99]):
        with pytest.raises(IndexError):
            features.pooled[rows]


@pytest.mark.parametrize("kind", ["pooled", "tokens", "ragged"])
def test_plain_zarr_reads_all_of_it(store, kind):
    """Opened with zarr alone, every array has its shape and values, and zarr warns of nothing."""
    import zarr

    changes = {"pooled": {}, "tokens": {"tokens": "2", "n_tokens": 2}, "ragged": {"tokens": "all"}}[kind]
    made = spec(**changes, token_dim=3 if changes else None)
    lengths = np.arange(150) % 5 + 1 if kind == "ragged" else None
    features = write(store.require_features("f/image", made, 150), keys_of(range(150)), failed={7}, lengths=lengths)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(f"{store.location}/features.zarr", mode="r")["f/image"]
        assert FeatureSpec.from_dict(group.attrs.asdict()) == made
        assert np.array_equal(group["keys"][:], keys_of(range(150)))
        assert group["status"][:].tolist() == [2 if i == 7 else 1 for i in range(150)]
        pooled = group["pooled"][:]
        assert np.isnan(pooled[7]).all()
        assert np.array_equal(np.delete(pooled, 7, 0), np.delete(vectors(np.arange(150)), 7, 0))
        if kind == "tokens":
            assert group["tokens"].shape == (150, 2, 3)
            assert np.array_equal(group["tokens"][100], vectors([100, 100], 3))
        if kind == "ragged":
            at, n = group["tokens/offsets"][149], group["tokens/lengths"][149]
            assert n == 149 % 5 + 1
            assert np.array_equal(group["tokens/values"][at : at + n], vectors(np.arange(n) + 149, 3))
    assert features.failed == {7: "truncated image"}


def test_dimensions_have_names(store):
    """xarray opens a feature set by itself; metadata of before there were names is still right, and kept so."""
    import json

    xarray = pytest.importorskip("xarray")
    made = spec(tokens="2", n_tokens=2, token_dim=3)
    features = write(store.require_features("f/image", made, 150), keys_of(range(150)))
    if "://" not in store.location:
        opened = xarray.open_zarr(store.path / "features.zarr", group="f/image", consolidated=False)
        assert dict(opened.sizes) == {"item": 150, "byte": 16, "feature": DIM, "token": 2, "channel": 3}
        assert np.array_equal(opened.pooled.sel(item=slice(3, 5)), features.pooled[3:5])
    path = features.folder / "pooled" / "zarr.json"
    metadata = json.loads(path.read_text())
    assert metadata.pop("dimension_names") == ["item", "feature"]
    path.write_text(json.dumps(metadata))
    assert list(wrong_metadata(features)) == []
    metadata["fill_value"] = 0.0
    path.write_text(json.dumps(metadata))
    assert len(list(wrong_metadata(features))) == 1


@pytest.mark.parametrize("order", [1, -1])
def test_blocks_in_any_order_give_the_same_files(base, behind, order):
    """The order in which blocks are made leaves no trace in the arrays."""
    folders = []
    for name, step in (("a", 1), ("b", order)):
        store = create_store(f"{base}/{name}")
        lengths = np.arange(200) % 7
        made = spec(tokens="all", token_dim=3)
        write(store.require_features("f/image", made, 200), keys_of(range(200)), order=step, lengths=lengths)
        folders.append(behind.files(store.path / "features.zarr"))
    assert folders[0] == folders[1]


def test_blocks_side_by_side_are_those_one_after_the_other(base, behind):
    """Written several at a time they are the same files, recorded in order; one that fails leaves those before it."""
    stores = [create_store(f"{base}/{name}.hw") for name in "abc"]
    made, keys = spec(tokens="2", n_tokens=2, token_dim=3), keys_of(range(500))
    write(stores[0].require_features("f/image", made, 500), keys)

    def result(task, fault=None):
        if task.block == fault:
            raise ValueError("no such vectors")
        tokens = vectors(np.repeat(task.rows, 2), 3).reshape(len(task.rows), 2, 3)
        return task, BlockResult(task.rows, vectors(task.rows), tokens)

    for store, fault in ((stores[1], None), (stores[2], 5)):
        with store.require_features("f/image", made, 500).writing() as writer:
            writer.set_environment({"test": 1})
            tasks, done = writer.plan(keys), []
            blocks = (result(task, fault) for task in tasks)
            if fault is None:
                done = list(writer.commit_all(blocks))
            else:
                with pytest.raises(ValueError, match="no such vectors"):
                    done.extend(writer.commit_all(blocks))
            assert [task.block for task in done] == [task.block for task in tasks][: len(done)]
    assert behind.files(stores[1].path / "features.zarr") == behind.files(stores[0].path / "features.zarr")
    left = stores[2].features("f/image")
    assert sorted(left.state.blocks) == list(range(len(left.state.blocks)))
    assert 0 < len(left.state.blocks) < 6
    assert list(left.verify()) == []
    write(left, keys)
    assert behind.files(stores[2].path / "features.zarr") == behind.files(stores[0].path / "features.zarr")


def test_a_second_run_does_only_what_is_left(store):
    """Blocks with a line in the journal are not planned again; the end result equals one run's."""
    keys = keys_of(range(300))
    features = write(store.require_features("f/image", spec(), 300), keys, only=2)
    assert features.status.tolist() == [1] * 128 + [0] * 172
    assert np.isnan(features.pooled[128:]).all()
    with features.writing() as writer:
        assert [task.block for task in writer.plan(keys)] == [2, 3, 4]
    features = write(features, keys)
    assert np.array_equal(features.pooled[:], vectors(np.arange(300)))


def test_a_block_without_its_line_is_made_again(store, behind):
    """A crash between the chunk and the journal's line costs that block and nothing else."""
    keys = keys_of(range(300))
    features = write(store.require_features("f/image", spec(), 300), keys)
    journal = features.journal.path
    lines = behind.read(journal).splitlines(keepends=True)
    behind.write(journal, b"".join(lines[:-1]) + lines[-1][:20])  # the last line was cut short
    features = features.refresh()
    assert list(features.verify()) == []
    with features.writing() as writer:
        assert [task.block for task in writer.plan(keys)] == [4]
    features = write(features, keys)
    assert np.array_equal(features.pooled[:], vectors(np.arange(300)))
    assert behind.read(journal).splitlines() == [line.rstrip() for line in lines]


def test_appending_keeps_every_old_row(store):
    """New keys get rows after the old ones; the old last block is filled up, its checksum still true."""
    features = write(store.require_features("f/image", spec(), 100), keys_of(range(100)))
    with features.writing() as writer:
        tasks = writer.plan(keys_of(range(50, 200)))
    assert [task.rows.tolist() for task in tasks] == [
        list(range(100, 128)),
        list(range(128, 192)),
        list(range(192, 200)),
    ]
    features = write(features, keys_of(range(50, 200)))
    assert np.array_equal(features.pooled[:], vectors(np.arange(200)))
    assert list(features.verify()) == []


def test_an_item_that_is_gone_leaves_a_hole_and_not_a_stuck_block(store):
    """Items planned by an earlier, unfinished run and absent from this one stay to do; the others are made."""
    keys = keys_of(range(100))
    features = write(store.require_features("f/image", spec(), 100), keys, only=1)
    features = write(features, keys[::2])
    assert features.status[64:].tolist() == [1, 0] * 18
    assert list(features.verify()) == []
    features = write(features, keys)
    assert np.array_equal(features.pooled[:], vectors(np.arange(100)))
    assert list(features.verify()) == []


def test_ragged_tokens_survive_appending(store):
    """Each item's matrix is its own after blocks were extended and added."""
    made = spec(tokens="all", token_dim=3)
    lengths = np.array([3, 0, 5, 1, 9] * 40)
    features = write(store.require_features("f/image", made, 70), keys_of(range(70)), lengths=lengths[:70])
    features = write(features, keys_of(range(200)), lengths=lengths)
    for row in range(200):
        assert np.array_equal(features.tokens[row], vectors(np.arange(lengths[row]) + row, 3)), row
    tokens, mask = features.tokens.padded([4, 1, 0])
    assert tokens.shape == (3, 9, 3)
    assert mask.sum(1).tolist() == [9, 0, 3]
    assert list(features.verify()) == []


def test_failed_items_are_tried_again_only_when_asked(store):
    """A failed item is final until a run asks for it; then it takes its place in the block."""
    keys = keys_of(range(70))
    features = write(store.require_features("f/image", spec(), 70), keys, failed={3, 69})
    assert features.status[[3, 69]].tolist() == [2, 2]
    with features.writing() as writer:
        assert writer.plan(keys) == []
        tasks = writer.plan(keys, retry_failed=True)
        assert [t.rows.tolist() for t in tasks] == [[3], [69]]
        for task in tasks:
            writer.commit(task, BlockResult(task.rows, vectors(task.rows)))
    features = features.refresh()
    assert features.failed == {}
    assert np.array_equal(features.pooled[:], vectors(np.arange(70)))
    assert list(features.verify()) == []


@pytest.mark.parametrize("part", ["keys/c.0.0", "pooled/c.1.0", "tokens/lengths/c.0", "tokens/values/c.0.0"])
def test_one_flipped_byte_is_found(store, behind, part):
    """verify names the array in which a single bit changed."""
    made = spec(tokens="all", token_dim=3)
    features = write(store.require_features("f/image", made, 100), keys_of(range(100)), lengths=np.full(100, 2))
    path = features.folder / part
    data = bytearray(behind.read(path))
    data[5] ^= 1
    behind.write(path, data)
    problems = list(features.refresh().verify())
    assert problems
    assert part.rsplit("/", 1)[0] in problems[0]


def test_checksums_of_before_are_still_checked(store, behind):
    """Those that are BLAKE2b hold, find a flipped byte, and give way to new ones where a block is added to."""
    from dataclasses import replace
    from hashlib import blake2b

    keys = keys_of(range(200))
    features = write(store.require_features("f/image", spec(), 200), keys[:150])

    def old(part, start, stop):
        data = np.asarray(features.keys if part == "keys" else features.pooled[start:stop]).tobytes()
        return blake2b(data, digest_size=16).hexdigest()

    with features.writing() as writer:
        plan = features.state.plan
        writer.features.journal.append(replace(plan, sums={**plan.sums, "keys": old("keys", 0, 150)}))
        for line in features.state.blocks.values():
            (span,) = line.stored
            writer.record(replace(line, sums={"pooled": old("pooled", *span)}))
    features = features.refresh()
    assert list(features.verify()) == []
    features = write(features, keys)
    assert [line.sums["pooled"][:5] == "xxh3:" for line in features.state.blocks.values()] == [False, False, True, True]
    assert list(features.verify()) == []
    path = features.folder / "pooled" / "c.1.0"
    data = bytearray(behind.read(path))
    data[9] ^= 4
    behind.write(path, bytes(data))
    assert any("block 1 of pooled differs" in line for line in store.features("f/image").verify())


def test_a_missing_block_file_is_found(store, behind):
    """A chunk that the journal speaks of must be there: what reads it says so, and so does verify."""
    features = write(store.require_features("f/image", spec(), 100), keys_of(range(100)))
    behind.remove(features.pooled.chunk_path(1))
    features = features.refresh()
    assert np.isfinite(features.pooled[:64]).all()
    for read in (lambda: features.pooled[64:], lambda: features.pooled[[70]], lambda: list(features.pooled.blocks())):
        with pytest.raises(StoreError, match=r"c\.1\.0 is missing"):
            read()
    assert ["c.1.0 is missing" in line for line in features.verify()] == [True]


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_damage_is_not_hidden_by_adding_to_the_block(store, behind, damage):
    """Rows that a block holds are compared with their checksum before a new one is made over them."""
    keys = keys_of(range(40))
    features = write(store.require_features("f/image", spec(), 40), keys[:20])
    path = features.pooled.chunk_path(0)
    if damage == "flip":
        data = bytearray(behind.read(path))
        data[5] ^= 1
        behind.write(path, data)
    else:
        behind.remove(path)
    before = behind.read(features.journal.path)
    with pytest.raises(StoreError, match=r"differs from its checksum|is missing"):
        write(features.refresh(), keys)
    assert behind.read(features.journal.path).count(b'"block"') == before.count(b'"block"')
    assert list(features.refresh().verify())


def test_a_journal_of_deleted_features_is_not_believed(store, behind):
    """Features whose folder was deleted start anew, whatever their journal says."""
    write(store.require_features("f/image", spec(), 100), keys_of(range(100)))
    folder = store.path / "features.zarr" / "f"
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        behind.remove(path)
    features = store.require_features("f/image", spec(), 50)
    assert features.n_items == 0
    features = write(features, keys_of(range(50)))
    assert np.array_equal(features.pooled[:], vectors(np.arange(50)))
    assert list(features.verify()) == []


def test_a_changed_status_is_found(store, behind):
    """Status that says less than the journal is named; status that a killed run left ahead of it is not."""
    features = write(store.require_features("f/image", spec(), 100), keys_of(range(100)), only=1)
    path = features.folder / "status" / "c.0"
    status = bytearray(behind.read(path))
    status[3] = 0
    behind.write(path, status)
    assert list(features.verify()) == ["f/image: block 0 of status differs from the journal"]
    status[3] = 1
    behind.write(path, status)
    behind.write(features.folder / "status" / "c.1", bytes([1] * 64))
    assert list(features.verify()) == []


def test_a_short_block_file_is_refused(store, behind):
    """A chunk of the wrong length is an error that names the file, not a wrong number."""
    features = write(store.require_features("f/image", spec(), 100), keys_of(range(100)))
    path = features.pooled.chunk_path(1)
    behind.write(path, behind.read(path)[:-2])
    with pytest.raises(StoreError, match=r"c\.1\.0 has 1022 bytes instead of 1024: "):
        features.refresh().pooled[:]


def test_a_different_spec_is_refused_and_the_fields_are_named(store):
    """Features of two encoder settings are never mixed."""
    store.require_features("f/image", spec(), 10)
    with pytest.raises(SpecMismatch, match=r"pooling: stored 'default', now 'mean'; dtype: stored 'float16'"):
        store.require_features("f/image", spec(pooling="mean", dtype="float32"), 10)


def test_a_second_writer_is_told_who_writes(store):
    """Two processes cannot write one feature set; the second learns the first one's process and host."""
    features = store.require_features("f/image", spec(), 10)
    code = (
        "import sys; from headwater.store import open_store\n"
        "try:\n  open_store(sys.argv[1]).features('f/image').writing().__enter__()\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    with features.writing():
        out = subprocess.run([sys.executable, "-c", code, store.location], capture_output=True, text=True, check=True)
    assert out.stdout.startswith(f"{StoreBusy.__name__} f/image is being written by process ")
    with features.writing():
        pass  # and once it is over, anyone may


def test_half_created_features_do_not_exist(store, behind):
    """A crash while a feature set is being created leaves nothing that a reader sees."""
    features = store.require_features("f/image", spec(), 10)
    behind.remove(features.folder / "zarr.json")
    assert open_store(store.location).feature_names() == []
    store.require_features("f/image", spec(dtype="float32"), 10)


@settings(max_examples=25, deadline=None)
@given(
    runs=st.lists(
        st.tuples(
            st.sets(st.integers(0, 150), min_size=1), st.integers(0, 3), st.sets(st.integers(0, 150), max_size=4)
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_history_of_runs_ends_in_the_same_values(tmp_path_factory, runs):
    """Whatever runs came before, unfinished or not, a last whole run leaves each item's own vector at its row."""
    store = create_store(tmp_path_factory.mktemp("s") / "s.hw")
    features = store.require_features("f/image", spec(), 150)
    seen = set()
    for numbers, only, failed in runs:
        features = write(features, keys_of(sorted(numbers)), only=only, failed=failed)
        seen |= numbers
    features = write(features, keys_of(sorted(seen)))
    rows = features.rows_of(keys_of(sorted(seen)))
    assert sorted(rows.tolist()) == list(range(len(seen)))
    stored = features.status == 1
    assert np.array_equal(features.pooled[stored], vectors(np.flatnonzero(stored)))
    assert np.isnan(features.pooled[~stored]).all()
    assert list(features.verify()) == []


SIZES = [(10, 40), (30, 5), (1, 60), (63, 20), (10, 0)]
GROWING = [("folder", *sizes) for sizes in SIZES] + [("s3", *SIZES[0])]
GROWING += [pytest.param("s3", *sizes, marks=pytest.mark.slow) for sizes in SIZES[1:]]


@pytest.mark.parametrize(("base", "first", "longer"), GROWING, indirect=["base"])
@pytest.mark.parametrize("form", ["float16", "int8"])
def test_a_part_filled_block_of_ragged_tokens_grows(store, first, longer, form):
    """Items with many more tokens join a block, which then spans chunks that were not there; all reads back."""
    tokens = {"tokens": "all", "token_dim": 3, "modality": "text"}
    made = store.require_features("f/text", spec(**tokens).with_tokens_as(form), 64)
    keys = keys_of(range(64))
    lengths = np.where(np.arange(64) < first, 3, longer)
    features = write(made, keys[:first], lengths=lengths[:first])
    features = write(features, keys, lengths=lengths)
    assert list(features.verify()) == []
    again = store.features("f/text")
    for row in (0, first - 1, first, 63):
        expected = vectors(np.arange(lengths[row]) + row, 3)
        np.testing.assert_allclose(again.tokens[row], expected, atol=0.005 * max(expected.max(initial=1), 1))


def test_values_that_are_fewer_than_their_rows_are_refused(store):
    """A block is not written when its values are not one for each row, which its checksum would hide."""
    features = store.require_features("f/image", spec(), 64)
    with features.writing() as writer:
        (task,) = writer.plan(keys_of(range(64)))
        for values in (vectors(task.rows[:-1]), vectors(task.rows, DIM + 1), vectors(task.rows)[:, 0]):
            with pytest.raises(ValueError, match=r"values of shape \(.*\) do not fit 64 rows of MappedArray"):
                writer.commit(task, BlockResult(task.rows, values))
        writer.commit(task, BlockResult(task.rows, vectors(task.rows)))
    assert list(features.refresh().verify()) == []
