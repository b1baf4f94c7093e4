"""Batches: what arrives while one is computed is done together, and one bad item does not spoil the others."""

import threading

import pytest

from headwater.serve.batches import Batcher, Ended


def test_items_that_wait_are_done_together():
    sizes, go = [], threading.Event()

    def work(items):
        sizes.append(len(items))
        go.wait(10)
        return [item * 2 for item in items]

    batcher = Batcher(work, most=8)
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: batcher(i)})) for i in range(20)]
    for thread in threads:
        thread.start()
    while len(batcher._waiting) < 20 - (sizes[0] if sizes else 1) - 1:
        pass
    go.set()
    for thread in threads:
        thread.join()
    assert found == {i: 2 * i for i in range(20)}
    assert max(sizes) <= 8
    assert len(sizes) < 10
    batcher.close()


def test_one_that_fails_fails_alone():
    def work(items):
        if 3 in items:
            raise ValueError("three")
        return items

    batcher, go = Batcher(work), threading.Barrier(6)
    found = {}

    def ask(i):
        go.wait()
        try:
            found[i] = batcher(i)
        except ValueError as error:
            found[i] = str(error)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: 0, 1: 1, 2: 2, 3: "three", 4: 4, 5: 5}
    with pytest.raises(ValueError, match="three"):
        batcher(3)
    batcher.close()


class Panic(BaseException):
    """As libraries written in Rust raise."""


def test_whatever_is_raised_the_next_are_answered():
    def work(items):
        if items[0] == "panic":
            raise Panic
        return items[:-1] if items[0] == "few" else items

    batcher = Batcher(work)
    with pytest.raises(Panic):
        batcher("panic")
    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        batcher("few")
    assert batcher("next") == "next"
    batcher.close()


def test_what_is_asked_after_the_end_is_refused():
    """Rather than waited for, by threads without which the process cannot end."""
    batcher = Batcher(lambda items: items)
    batcher.close()
    with pytest.raises(Ended, match="the server is ending"):
        batcher(1)


def test_what_is_in_the_background_goes_last():
    """Of what waits, the background comes after all others, and a few at once."""
    batches, go = [], threading.Event()

    def work(items):
        batches.append(list(items))
        go.wait(10)
        return items

    batcher = Batcher(work)
    items = [0, *range(-10, 0), *range(1, 11)]  # those below 0 are asked for first
    threads = []
    for n, item in enumerate(items):
        threads.append(threading.Thread(target=batcher, args=(item,), kwargs={"background": item < 0}))
        threads[-1].start()
        while len(batcher._waiting) + len(batcher._background) + len(batches) < n + 1:
            pass
    go.set()
    for thread in threads:
        thread.join()
    assert batches[0] == [0]
    assert sorted(batches[1]) == list(range(1, 11))
    assert [len(batch) for batch in batches[2:]] == [8, 2]
    batcher.close()


def test_the_end_finishes_what_waits():
    """After the end nothing new is taken, and all that waited is answered, the background too."""
    go, found = threading.Event(), []
    batcher = Batcher(lambda items: go.wait(10) and items)

    def ask(item):
        found.append(batcher(item, background=item % 2 == 0))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    while len(batcher._waiting) + len(batcher._background) < 5:
        pass
    ending = threading.Thread(target=batcher.close)
    ending.start()
    while not batcher._ended:
        pass
    with pytest.raises(Ended):
        batcher(11)
    go.set()
    for thread in [*threads, ending]:
        thread.join()
    assert sorted(found) == list(range(10))
