"""What becomes of a computer that goes over from AiiDA's own transports; without AiiDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opensshtransport.errors import ToolMissing
from opensshtransport.setup.aiida_migration import migrate, planned

OLD: dict[str, Any] = {
    "username": "me",
    "port": 22,
    "key_filename": "/keys/my key",
    "timeout": 60,
    "compress": True,
    "look_for_keys": True,
    "allow_agent": False,
    "load_system_host_keys": True,
    "use_login_shell": False,
    "proxy_jump": "",
    "proxy_command": "",
    "gss_auth": False,
    "gss_kex": False,
    "gss_deleg_creds": False,
    "gss_host": None,
    "key_policy": "RejectPolicy",
    "safe_interval": 30.0,
}


def test_from_paramiko() -> None:
    """What AiiDA kept is to come out of ssh_config; what both know stays."""
    plan = planned("daint.example.org", OLD, Path("/c"))
    assert plan.parameters == {
        "host": "daint.example.org",
        "ssh_config": "/c",
        "use_login_shell": False,
        "safe_interval": 30.0,
    }
    assert plan.options == {"User": "me", "Port": "22", "IdentityFile": '"/keys/my key"'}
    assert not plan.notes


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"proxy_jump": "front"}, {"ProxyJump": "me@front", "ProxyCommand": None}),
        ({"proxy_jump": "you@front:23, b"}, {"ProxyJump": "you@front:23,me@b", "ProxyCommand": None}),
        ({"proxy_jump": "front", "port": 2222}, {"ProxyJump": "me@front:2222", "ProxyCommand": None}),
        ({"proxy_jump": "[::1]:23", "port": 2222}, {"ProxyJump": "me@[::1]:23", "ProxyCommand": None}),
        ({"proxy_command": "ssh -W %h:%p f"}, {"ProxyCommand": "ssh -W %h:%p f", "ProxyJump": None}),
        ({"gss_auth": True, "gss_deleg_creds": True}, {"GSSAPIDelegateCredentials": "yes"}),
    ],
)
def test_ways(given: dict[str, Any], options: dict[str, str | None]) -> None:
    """The way to the host goes into ssh_config, and the other one must not be there."""
    found = planned("daint", OLD | given).options
    assert found.items() >= options.items()


def test_from_ssh_async() -> None:
    """Options that both have stay as they are; meaningless ones are reported."""
    before = {"host": "d2", "backend": "openssh", "use_sftp": False, "data_node_host": "files"}
    more = {"max_io_allowed": 0, "script_before": "/bin/true", "authentication_script": "None"}
    plan = planned("daint", before | more)
    assert plan.parameters == {"host": "d2", "max_io_allowed": 1, "authentication_script": "/bin/true"}
    assert not plan.options
    (note,) = plan.notes
    assert "files" in note


def test_without_aiida(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where AiiDA is not installed, that is said."""
    monkeypatch.setitem(__import__("sys").modules, "aiida", None)
    with pytest.raises(ToolMissing, match="AiiDA's environment"):
        migrate("daint", profile=None, config=None, dry_run=True, say=print)
