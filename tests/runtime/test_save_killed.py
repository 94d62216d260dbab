"""A process killed while it saves a sequence: the file before it stays, and the next save clears the rest."""

import pytest
from killing import killed_at_random

import dca_runtime as dca
from dca_runtime import _ffi

TOKENS = [(i * 7) % 60 for i in range(300)]


@pytest.fixture
def session(tiny_gguf):
    # One thread: a fork has none of the others.
    with dca.Model(tiny_gguf(), threads=1) as model, model.session(context=512, cache_type="f32") as session:
        session.eval(TOKENS)
        yield session


def save(session, path):
    """Session.save in a fork, which the session itself refuses to be used in."""
    _ffi.check(_ffi.lib().dca_session_save(session._native, str(path).encode()))


def test_saving(tmp_path, session):
    path = tmp_path / "a.kv"
    session.save(path)
    whole = path.read_bytes()
    for _ in killed_at_random(lambda: save(session, path), rounds=60):
        assert path.read_bytes() == whole
    session.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.kv"]
    session.load(path)
    assert session.length == len(TOKENS)


def test_saving_where_nothing_was(tmp_path, session):
    path = tmp_path / "a.kv"
    session.save(tmp_path / "b.kv")
    whole = (tmp_path / "b.kv").read_bytes()
    for finished in killed_at_random(lambda: save(session, path), rounds=60):
        assert path.exists() or not finished
        if path.exists():
            assert path.read_bytes() == whole
            path.unlink()
    session.save(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.kv", "b.kv"]
