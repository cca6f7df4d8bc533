"""The jump hosts and their targets: plain ssh gets through, and by no other way."""

from __future__ import annotations

import subprocess

import pytest

from tests.conftest import MakeChain
from tests.support.jumps import Hop, Style
from tests.support.nodes import log_in

CODE = r"\(o\w+@{}\) One-time password \(OATH\) for `o\w+': "


@pytest.mark.parametrize("style", ["ProxyJump", "ProxyCommand"])
@pytest.mark.parametrize("hops", [("key", "key"), ("key", "key", "key")], ids=["one", "two"])
@pytest.mark.client
def test_jumps_by_key(make_chain: MakeChain, hops: tuple[Hop, ...], style: Style) -> None:
    """The target is reached through one and two jump hosts, and each sees one login."""
    chain = make_chain(*hops)
    assert log_in(chain.target, config=chain.config(style)).worked
    assert [node.authentications() for node in chain.nodes] == [1] * len(hops)


@pytest.mark.parametrize("style", ["ProxyJump", "ProxyCommand"])
def test_each_hop_asks(make_chain: MakeChain, style: Style) -> None:
    """Both jump hosts and the target ask for a code of their own, and the prompts tell them apart."""
    chain = make_chain("code", "code", "code")
    turns = [(CODE.format(node.host), node.code()) for node in chain.nodes]
    assert log_in(chain.target, *turns, config=chain.config(style)).worked
    assert [node.authentications() for node in chain.nodes] == [1, 1, 1]


def test_wrong_code_at_the_jump_host(make_chain: MakeChain) -> None:
    """A refused login at the jump host never reaches the target.

    Its ssh does not get NumberOfPasswordPrompts from the command line, so it asks three times.
    """
    chain = make_chain("code", "key")
    turn = (CODE.format("jump1"), "000000")
    assert log_in(chain.target, turn, turn, turn, config=chain.config()).returncode == 255
    assert chain.target.connections() == 0


def test_no_other_way(make_chain: MakeChain) -> None:
    """Without its jump hosts the target cannot be reached, not even from the one before the last."""
    chain = make_chain("key", "key", "key")
    if not chain.isolated:
        pytest.skip("only network namespaces (root) enforce the way through the jump hosts")
    options = [["-o", "ProxyJump=none"], ["-o", "ProxyJump=jump1"]]
    for option in options:
        argv = ["ssh", "-F", str(chain.config()), "-o", "BatchMode=yes", "-o", "ConnectTimeout=3", *option]
        done = subprocess.run([*argv, "target", "true"], capture_output=True, timeout=20, check=False)
        assert done.returncode == 255
    assert chain.target.connections() == 0
