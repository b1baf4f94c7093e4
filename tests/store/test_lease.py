"""Locks in a bucket: what is this process's own is never taken for another's."""

import itertools
import threading

import pytest

from headwater.errors import RemoteError
from headwater.store import lease
from headwater.store.lease import Held, Lease


class Bucket:
    """Objects with conditional writes, of which some answers are lost, as they are said: ``lost`` or ``unanswered``.

    A lost answer is one that was sent again by itself and refused; an unanswered one is an error.
    """

    def __init__(self):
        self.objects = {}
        self.tags = itertools.count()
        self.next = []

    def read_tagged(self, name):
        return self.objects.get(name)

    def write_if(self, name, data, tag):
        found = self.objects.get(name)
        if (None if found is None else found[0]) != tag:
            return None
        self.objects[name] = (str(next(self.tags)), data)
        how = self.next.pop(0) if self.next else "told"
        if how == "unanswered":
            raise RemoteError("the answer did not come")
        return self.objects[name][0] if how == "told" else None


@pytest.mark.parametrize("wait", [True, False])
def test_a_claim_whose_answer_was_lost_is_held(wait):
    """It does not wait for itself, and holds the lock against others."""
    bucket = Bucket()
    bucket.next = ["lost"]
    own = Lease(bucket, "lock")
    taker = threading.Thread(target=own.acquire, kwargs={"wait": wait}, daemon=True)
    taker.start()
    taker.join(5)
    assert not taker.is_alive()
    assert own.held
    with pytest.raises(Held, match="process"):
        Lease(bucket, "lock").acquire(wait=False)
    own.release()
    Lease(bucket, "lock").acquire(wait=False)


@pytest.mark.parametrize("answer", ["lost", "unanswered"])
def test_a_renewal_whose_answer_was_lost_is_a_renewal(monkeypatch, answer):
    """The lock stays this process's, and is renewed and freed afterwards."""
    monkeypatch.setattr(lease, "SECONDS", 0.4)
    bucket = Bucket()
    own = Lease(bucket, "lock")
    own.acquire(wait=False)
    bucket.next = [answer]
    seen = {bucket.objects["lock"][0]}
    for _ in range(100):
        threading.Event().wait(0.02)
        seen.add(bucket.objects["lock"][0])
        if len(seen) > 3:
            break
    assert len(seen) > 3
    assert own.held
    own.release()
    assert bucket.objects["lock"][1] == b"{}"


def test_a_lock_that_another_took_is_lost(monkeypatch):
    """What stands there is another's claim: nothing is written over it."""
    monkeypatch.setattr(lease, "SECONDS", 0.4)
    bucket = Bucket()
    own = Lease(bucket, "lock")
    own.acquire(wait=False)
    bucket.objects["lock"] = ("other", b'{"holder": "process 1 on elsewhere"}')
    threading.Event().wait(0.3)
    assert not own.held
    own.release()
    assert bucket.objects["lock"][0] == "other"
