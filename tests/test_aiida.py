"""The AiiDA transport: as `core.local` in all that AiiDA asks, over one login, with nothing submitted twice."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiida_contract import DIFFERENT, OTHER_TREES, SCENARIOS, Awaiting, Places, answer
from aiida_profile import missing_for_aiida
from conftest import require
from nodes import missing_programs

from opensshtransport.sandbox import Sandbox


@pytest.fixture(scope="module")
def aiida(_walls_of_the_session: None) -> Iterator[None]:
    """AiiDA is loaded, and its configuration is not the person's."""
    require(missing_for_aiida())
    with tempfile.TemporaryDirectory(prefix="oa", dir="/tmp") as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIIDA_PATH", place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import aiida.transports.plugins.local

            import opensshtransport.aiida  # noqa: F401 - loads all that warns
        yield


@pytest.fixture(scope="module")
def runtime(_walls_of_the_session: None) -> str:
    """The runtime directory that the tests of this module share, so that they share a master."""
    return os.environ["XDG_RUNTIME_DIR"]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, isolated: Path, runtime: str) -> None:
    """This test uses the master of the module."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)


@pytest.fixture(scope="module")
def quick_node(_walls_of_the_session: None) -> Iterator[Sandbox]:
    """A node for the present user, whose records of what ran once are not the user's own."""
    require(missing_programs("sshd", "ssh-keygen"))
    with tempfile.TemporaryDirectory(prefix="oh", dir="/tmp") as state:
        with Sandbox(server_options={"SetEnv": f"SHLVL=1 XDG_STATE_HOME={state}"}) as node:
            yield node


def ours(node: Sandbox, **options: object) -> Any:
    """Our transport to a node, not yet open."""
    from opensshtransport.aiida import OpenSshTransport

    return OpenSshTransport(machine=node.host, **{"ssh_config": str(node.ssh_config), **options})


@pytest.fixture(scope="module")
def open_transport(aiida: None, quick_node: Sandbox, runtime: str) -> Iterator[Any]:
    """Our transport, open for all tests of the contract."""
    with ours(quick_node) as transport:
        yield transport


@pytest.fixture(scope="module")
def local_transport(aiida: None) -> Iterator[Any]:
    """AiiDA's own transport to this machine."""
    from aiida.plugins import TransportFactory

    with TransportFactory("core.local")(machine="localhost") as transport:
        yield transport


# What AiiDA tells apart, the most particular first.
KINDS = (FileNotFoundError, OSError, UnicodeError, ValueError, NotImplementedError)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("way", ["blocking", "async"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_contract(name: str, way: str, open_transport: Any, local_transport: Any, isolated: Path) -> None:
    """Each method gives the results, the exceptions and the trees that `core.local` gives."""
    one, other = Places.make(isolated / "1"), Places.make(isolated / "2")
    wanted, expected = answer(SCENARIOS[name], local_transport, one)
    transport = Awaiting(open_transport) if way == "async" else open_transport
    given, raised = answer(SCENARIOS[name], transport, other)
    assert given == wanted
    if name in DIFFERENT:
        assert expected is None, "it is like ours now"
        expected = OSError
    kinds = [kind for kind in KINDS if issubclass(expected or type(None), kind)]
    assert (raised is None) == (expected is None)
    # whoever catches what core.local raises catches ours too
    assert raised is None or issubclass(raised, tuple(kinds[:1]))
    if name not in OTHER_TREES:
        assert other.trees() == one.trees()
