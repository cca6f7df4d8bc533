"""What sftp prints, read as names; recorded output of eight versions is in `tests/support/clients`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensshtransport.remote.sftp_listings import decoded, left_out, parse_listing, utf8_locale

CLIENTS = Path(__file__).parents[1] / "support" / "clients"
VERSIONS = ("7.4p1", "8.0p1", "8.7p1", "8.9p1", "9.2p1", "9.6p1", "9.9p2", "10.5p1")


def _said(version: str, probe: str) -> str:
    return (CLIENTS / f"{version}-{probe}.txt").read_text("utf-8", "surrogateescape")


@pytest.mark.parametrize("version", VERSIONS)
def test_listings_of_all_versions(version: str) -> None:
    """Each version lists all names: with blanks, a newline, a tab, letters and bytes that are none."""
    echo, _, listing = _said(version, "sftp-ls-1a").partition("\n")
    assert echo == "sftp> ls -1a /home/me"
    names = {decoded(name) for name in parse_listing(listing, "/home/me")}
    assert names == {"new\nline", "plain", "raw\udcffbyte", "tab\there", "tree", "two words", "ünï"}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_left_out_by_all_versions(version: str) -> None:
    """Each version says what it leaves out of a tree; those before 8.9 in other words."""
    left = left_out(_said(version, "sftp-get-tree-with-links"))
    assert sorted(left) == [f"/home/me/tree/{name}" for name in ("dangling", "fifo", "link")]


@pytest.mark.parametrize("text", ["nonsense\n", "Ünï/a\n", "/home/men\n", "\n"])
def test_what_is_no_listing(text: str) -> None:
    """Words that are no names of this directory are refused, and not left out."""
    with pytest.raises(ValueError, match=r"^.*$"):
        parse_listing(text, "/home/me")


@given(st.lists(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1)))
def test_no_name_is_lost(names: list[str]) -> None:
    """Whatever names there are, as many are read; blanks and control characters stay."""
    names = [name for name in names if name not in {".", ".."}]
    text = "".join(f"top/{name}\n" for name in (".", "..", *names))
    assert parse_listing(text, "top") == names


@pytest.mark.parametrize(
    ("environ", "locale"),
    [
        ({}, "C.UTF-8"),
        ({"LANG": "de_DE.UTF-8"}, "de_DE.UTF-8"),
        ({"LANG": "en_US.utf8", "LC_CTYPE": "C"}, "C.UTF-8"),
        ({"LC_ALL": "", "LANG": "en_US.utf8"}, "en_US.utf8"),
        ({"LC_ALL": "tr_TR.UTF-8"}, "C.UTF-8"),
    ],
)
def test_the_locale_has_all_letters(environ: dict[str, str], locale: str) -> None:
    """sftp works in a locale of UTF-8, the person's own if it is one."""
    assert utf8_locale(environ) == locale
