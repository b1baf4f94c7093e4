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
    while batcher._waiting.qsize() < 20 - (sizes[0] if sizes else 1) - 1:
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
