"""Targets behind jump hosts.

As root, each hop is in a network namespace of its own and reaches only the next one, so a connection that
gets through has gone through all of them. Otherwise the hops share the loopback: the way through is used, but
not enforced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from opensshtransport.sandbox import Sandbox
from tests.support.nodes import Node, missing_programs
from tests.support.pam_nodes import OathNode
from tests.support.users import User

Hop = Literal["key", "code"]
Style = Literal["ProxyJump", "ProxyCommand"]

# Reserved for tests between networks (RFC 2544), so no real network is hidden.
_NETWORK = IPv4Address("198.18.0.0")


@dataclass(frozen=True, slots=True)
class Chain:
    """Jump hosts ``jump1``, ``jump2`` … and behind them ``target``; the last of ``nodes`` is the target.

    Attributes:
        isolated: whether each node can be reached only through the one before.
    """

    nodes: tuple[Sandbox, ...]
    isolated: bool

    @property
    def target(self) -> Sandbox:
        """The node at the end."""
        return self.nodes[-1]

    def config(self, style: Style = "ProxyJump") -> Path:
        """Write the ``ssh_config`` that knows every hop and the way through them."""
        path = self.target.directory / f"ssh_config.{style}"
        parts = [self.nodes[0].ssh_config.read_text()]
        for before, node in zip(self.nodes, self.nodes[1:], strict=False):
            ways = {
                "ProxyJump": before.host,
                "ProxyCommand": f"ssh -F {path} -W %h:%p {before.host}",
            }
            parts.append(f"{node.ssh_config.read_text()}{style} {ways[style]}\n")
        path.write_text("".join(parts))
        return path


def can_isolate() -> bool:
    """Whether this process may make network namespaces."""
    if os.geteuid() != 0 or missing_programs("ip"):
        return False
    name = f"o{secrets.token_hex(4)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        _ip("netns", "del", name)
    return made


@contextmanager
def jump_chain(user: User | None, hops: Sequence[Hop]) -> Iterator[Chain]:
    """Make one node for each of ``hops``, from the first jump host to the target, by what it asks for.

    Args:
        user: who logs in everywhere; None is the present user.
        hops: "key", or "code" for a one-time code after the key, which needs root and a user.
    """
    names = [*(f"jump{number}" for number in range(1, len(hops))), "target"]
    isolated = can_isolate()
    with ExitStack() as stack:
        places = stack.enter_context(_network(len(hops))) if isolated else [("", "")] * len(hops)
        nodes = []
        for name, hop, (namespace, address) in zip(names, hops, places, strict=True):
            made = _node(name, hop, user, namespace, address)
            nodes.append(stack.enter_context(made))
        yield Chain(tuple(nodes), isolated)


def _node(name: str, hop: Hop, user: User | None, namespace: str, address: str) -> Sandbox:
    server = {"ListenAddress": f"{address}:22"} if address else {}
    client = {"HostName": address, "Port": "22"} if address else {}
    if hop == "code":
        if user is None:
            raise ValueError("a node that asks for a code needs a user")
        return OathNode(
            name, user.name, key=True, namespace=namespace, server_options=server, client_options=client
        )
    return Node(
        name,
        None if user is None else user.name,
        namespace=namespace,
        server_options=server,
        client_options=client,
    )


@contextmanager
def _network(count: int) -> Iterator[list[tuple[str, str]]]:
    """Make namespaces in a row, the first linked to ours, each to the next; give names and addresses."""
    token = secrets.token_hex(4)
    # A /30 for each link, at a place of our own, since parallel test processes do the same.
    first = int(_NETWORK) + 16 * secrets.randbelow(2**13)
    places = [(f"o{token}{number}", str(IPv4Address(first + 4 * number + 2))) for number in range(count)]
    with ExitStack() as stack:
        before = ""
        for number, (namespace, address) in enumerate(places):
            _ip("netns", "add", namespace)
            stack.callback(_ip, "netns", "del", namespace)
            near, far = f"o{token}{number}n", f"o{token}{number}f"
            inside = ["-n", before] if before else []
            _ip(*inside, "link", "add", near, "type", "veth", "peer", "name", far, "netns", namespace)
            if not before:
                stack.callback(_ip_quietly, "link", "del", near)
            _ip(*inside, "addr", "add", f"{IPv4Address(int(IPv4Address(address)) - 1)}/30", "dev", near)
            _ip(*inside, "link", "set", near, "up")
            _ip("-n", namespace, "addr", "add", f"{address}/30", "dev", far)
            _ip("-n", namespace, "link", "set", far, "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
            if before:
                # Else a stray attempt would leave by the machine's default route, and hang.
                net = f"{IPv4Address(int(IPv4Address(address)) - 2)}/30"
                _ip("route", "add", "unreachable", net)
                stack.callback(_ip, "route", "del", "unreachable", net)
            before = namespace
        yield places


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _ip_quietly(*words: str) -> None:
    # A link goes with the namespace of its other end.
    with contextlib.suppress(RuntimeError):
        _ip(*words)
