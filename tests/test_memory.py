"""Memory is kept while a run goes on, and malloc is as it was afterwards."""

import ctypes

import pytest

from headwater import _memory


class Libc:
    """A C library that keeps a list of what was set."""

    gnu_get_libc_version = None

    def __init__(self):
        self.set = []

    def mallopt(self, what, value):
        self.set.append((what, value))

    def malloc_trim(self, pad):
        self.set.append(("trim", pad))


@pytest.fixture
def libc(monkeypatch):
    library = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return library


def test_every_setting_is_set_back(libc):
    """Also when the run ends in an error; and what was kept is given back."""

    def interrupted():
        with _memory.keep_freed_memory():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    *changes, last = libc.set
    names = [what for what, _ in changes]
    assert len(names) == 6
    assert names[:3] == names[3:]
    assert last == ("trim", 0)


def test_memory_is_given_back_once(libc):
    """Bodies within another change nothing when they end, also if they end after it, as in another thread."""
    inner = _memory.keep_freed_memory()
    with _memory.keep_freed_memory():
        with _memory.keep_freed_memory():
            pass
        inner.__enter__()
        assert ("trim", 0) not in libc.set
    assert ("trim", 0) not in libc.set
    inner.__exit__(None, None, None)
    assert libc.set.count(("trim", 0)) == 1
    assert libc.set[-1] == ("trim", 0)


def test_a_users_own_settings_stand(libc, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with _memory.keep_freed_memory():
        pass
    assert libc.set == []


def test_other_libraries_are_left_alone(libc, monkeypatch):
    monkeypatch.delattr(Libc, "gnu_get_libc_version")
    with _memory.keep_freed_memory():
        pass
    assert libc.set == []
