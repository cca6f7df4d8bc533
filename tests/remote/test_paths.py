"""Paths as words of sh, and patterns: on values, and by the shells of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensshtransport.errors import SettingsError
from opensshtransport.remote.entries import DirEntry, Stat
from opensshtransport.remote.paths import chunks, path_text, quoted, tilde
from opensshtransport.remote.patterns import matches, select, words

names = st.binary(min_size=1, max_size=20).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"~")))


@given(texts=st.lists(names, min_size=1, max_size=20))
@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_a_word_is_what_it_was(shell: str, texts: list[str]) -> None:
    """Whatever bytes a path has: each shell takes it as one word, with only `~` and `~user` expanded."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    argv = ["busybox", "sh"] if shell == "busybox" else [shell]
    script = "".join(f"printf '%s\\0' {quoted(text)}\n" for text in texts)
    done = subprocess.run(
        [shutil.which(argv[0]) or argv[0], *argv[1:], "-c", os.fsencode(script)],
        env={"HOME": "/home/of this user", "PATH": "", "LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    for text, raw in zip(texts, done.stdout.split(b"\0")[:-1], strict=True):
        user = tilde(text)
        if user in {"", "~"}:
            plain = f"./{text}" if text.startswith("-") else text
            assert os.fsdecode(raw) == ("/home/of this user" + text[1:] if user else plain)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        *(("~", "~"), ("~/x", "~"), ("~me", "~me"), ("~me/x", "~me"), ("~a.b-c_1/", "~a.b-c_1")),
        *(
            ("~\n", ""),
            ("~me\n", ""),
            ("~ /x", ""),
            ("./~", ""),
            ("a~", ""),
            ("~+", ""),
            ("~1", ""),
            ("~$(x)", ""),
        ),
    ],
)
def test_tilde(text: str, user: str) -> None:
    """Only what a shell takes for a user's directory is one, and only at the beginning."""
    assert tilde(text) == user


def test_paths_of_any_kind() -> None:
    """str, bytes and path objects; no NUL."""
    assert path_text(b"a\xff") == "a\udcff"
    assert path_text(PurePosixPath("a/b")) == "a/b"
    with pytest.raises(SettingsError):
        path_text("a\0")


@given(st.lists(names, max_size=50))
def test_chunks(paths: list[str]) -> None:
    """Each name arrives once, in its order, ended by a NUL; there is always something to ask."""
    found = list(chunks(paths))
    assert found
    assert b"".join(found).split(b"\0")[:-1] == [os.fsencode(path) for path in paths]


def test_large_chunks() -> None:
    """Many names make several requests, and none is large."""
    found = list(chunks(["x" * 1000] * 2000))
    assert len(found) == 4
    assert max(map(len, found)) < 600_000


@pytest.mark.parametrize(
    ("path", "pattern", "wanted"),
    [
        *(("a", "*", True), (".a", "*", True), ("..", "*", False), (".", "?", False), ("..", "..", True)),
        *(
            ("a/b", "*", False),
            ("a/b", "*/b", True),
            ("ä", "?", True),
            ("\udcff", "?", True),
            ("A", "a", False),
        ),
        *(("a\n", "a", False), ("a\n", "a?", True), ("b", "[!a]", True), ("[", "[[]", True)),
    ],
)
def test_matches(path: str, pattern: str, wanted: bool) -> None:
    """Name by name, with fnmatch and case; what means the directory itself is not a name."""
    assert matches(path, pattern.split("/")) is wanted


@given(st.lists(st.text(st.sampled_from("ab*?[]!.-'\\ é"), min_size=1, max_size=4), min_size=1, max_size=3))
def test_words_match_more(parts: list[str]) -> None:
    """What sh is asked to expand is wider than the pattern, and has nothing that sh could run."""
    for word in words(parts):
        done = subprocess.run(["dash", "-n", "-c", f": {word}"], capture_output=True, check=False)
        assert done.returncode == 0, word


def entry(name: str, mode: int, target: int | None = None) -> DirEntry:
    """An entry with these modes."""
    stats = [Stat(kind, 0, 0, 0, 1, 1, 1, 0, 0, 0) for kind in (mode, target or 0)]
    return DirEntry(name.rpartition("/")[2], name, stats[0], stats[1] if target else None)


def test_select() -> None:
    """`**` goes through directories and not through links; a link that a pattern goes on behind is told."""
    directory, file, link = 0o040755, 0o100644, 0o120777
    listed = [
        *(entry("d", directory), entry("d/f", file), entry("d/e", directory), entry("d/e/f", file)),
        entry("l", link, directory),
    ]
    entries = {found.path: found for found in listed}
    assert select(entries, ["**", "f"]) == ({"d/f", "d/e/f"}, set())
    assert select(entries, ["**"])[0] == {"", "d", "d/f", "d/e", "d/e/f", "l"}
    assert select(entries, ["*", "f"]) == ({"d/f"}, {("l", ("f",))})
