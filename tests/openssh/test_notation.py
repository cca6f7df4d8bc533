"""Names of hosts and files, as ssh and scp read them."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensshtransport.errors import SettingsError
from opensshtransport.openssh.notation import Address, Place, parse_address, parse_jump, parse_place

# What users and hosts are called: with all that separates them, too.
USERS = st.text(st.characters(codec="utf-8", exclude_characters="/", exclude_categories=["C"]), min_size=1)
HOSTS = st.sampled_from(["daint", "192.168.1.10", "a-b.example.org", "::1", "fe80::1%eth0", "2001:db8::2"])
PORTS = st.integers(1, 65535)
PATHS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1)


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("daint:x", "daint", "x"),
        ("daint:", "daint", "."),
        ("me@daint:/a:b", "me@daint", "/a:b"),
        ("[::1]:x", "::1", "x"),
        ("alice@[::1]:f", "alice@::1", "f"),
        ("alice@[fe80::1%eth0]:", "alice@fe80::1%eth0", "."),
        ("[daint]:x", "daint", "x"),
        ("alice@realm@daint:x", "alice@realm@daint", "x"),
        (r"DOMAIN\alice@daint:x", r"DOMAIN\alice@daint", "x"),
        ("@daint:x", "daint", "x"),
        ("scp://daint", "daint", "."),
        ("scp://daint/", "daint", "."),
        ("scp://alice@daint:2222/run/x", "ssh://alice@daint:2222", "run/x"),
        ("scp://alice@daint//scratch/x", "alice@daint", "/scratch/x"),
        ("scp://a%40b@daint:22/a%20b", "ssh://a%40b@daint:22", "a b"),
        (r"scp://DOM%5calice@daint/x", r"DOM\alice@daint", "x"),
        ("ssh://alice@daint:2222/x", "ssh://alice@daint:2222", "x"),
        ("scp://alice@[::1]/x", "alice@::1", "x"),
        ("./a:b", None, "./a:b"),
        ("/a:b", None, "/a:b"),
        (":x", None, ":x"),
        ("plain", None, "plain"),
        ("[x", None, "[x"),
        ("[x:y", None, "[x:y"),
        ("a/b@c:d", None, "a/b@c:d"),
    ],
)
def test_place(text: str, host: str | None, path: str) -> None:
    """Files are read as scp reads them."""
    assert parse_place(text) == Place(host, path)


@pytest.mark.parametrize("text", ["", "scp://", "scp://@h/x", "scp://h:0/x", "scp://h:70000/", "scp://::1/x"])
def test_no_place(text: str) -> None:
    """What is no name is refused, and never taken for a file here."""
    with pytest.raises(SettingsError):
        parse_place(text)


@given(
    USERS.filter(lambda user: ":" not in user and not user.startswith("[") and "@[" not in user), HOSTS, PATHS
)
def test_place_with_user(user: str, host: str, path: str) -> None:
    """Whatever the user and the path are called, the host is the one between them."""
    told = parse_place(f"{user}@{Address(host).operand}:{path}")
    assert told == Place(f"{user}@{host}", path)
    assert told.host is not None
    assert parse_address(told.host) == Address(host, user)


@given(USERS, HOSTS, PORTS)
def test_address_round_trip(user: str, host: str, port: int) -> None:
    """What ssh is given leads back to the same user, host and port."""
    for address in (Address(host), Address(host, user), Address(host, None, port), Address(host, user, port)):
        assert parse_address(str(address)) == address


@given(HOSTS, PORTS)
def test_jump(host: str, port: int) -> None:
    """Jump hosts have their ports behind a colon, and addresses of IPv6 are in brackets then."""
    operand = Address(host).operand
    assert parse_jump(f"a@b@{operand}:{port}") == Address(host, "a@b", port)
    assert parse_jump(operand) == Address(host)
    assert parse_jump(f"me@{host}") == Address(host, "me")


@given(st.text())
def test_never_anything_else(text: str) -> None:
    """Any text is a name or is refused by the one error for that."""
    for parse in (parse_address, parse_jump, parse_place):
        with contextlib.suppress(SettingsError):
            parse(text)


@pytest.mark.parametrize(
    "name",
    [
        "daint",
        "a@b@daint",
        r"DOM\alice@192.168.1.10",
        "alice@::1",
        "ssh://a%40b@daint:2222",
        "ssh://d:22/",
        "::1",
    ],
)
def test_as_ssh(name: str) -> None:
    """ssh itself finds the same user, host and port in a name."""
    said = subprocess.run(
        ["ssh", "-F", "none", "-G", name], capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.partition(" ")[::2] for line in said.splitlines())
    address = parse_address(name)
    assert found["hostname"] == address.host
    assert found["user"] == address.user or address.user is None
    assert found["port"] == str(address.port or 22)
