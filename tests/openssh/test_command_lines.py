"""`openssh.command_lines`: versions, what `ssh -G` says, and command lines that prove themselves.

Each guarded command line runs on a real server: with a live master it works, and without one it ends at
once, dials nobody and asks nothing.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opensshtransport.errors import ConfigurationError, MasterGone, SettingsError, ToolMissing
from opensshtransport.local.settings import Settings, config_file
from opensshtransport.openssh import programs
from opensshtransport.openssh.command_lines import (
    guard,
    guarded_options,
    guarded_scp,
    guarded_sftp,
    guarded_ssh,
    literal,
    master_command,
)
from opensshtransport.openssh.destination import Destination, check_destination, parse_resolved, resolve
from opensshtransport.openssh.diagnosis import NO_MASTER, classify
from opensshtransport.openssh.programs import locate, parse_version, version
from opensshtransport.openssh.versions import old_protocol
from opensshtransport.sandbox import Sandbox
from tests.conftest import require
from tests.support.nodes import missing_programs, shell_node
from tests.support.users import missing_for_users, wait_until


class TestCheckDestination:
    """What may be a destination."""

    @pytest.mark.parametrize(
        "host",
        [
            "daint",
            "me@daint",
            "ssh://me@daint:22",
            "192.0.2.1",
            "::1",
            "a-b",
            "me@-x",
            "dä",
            r"DOMAIN\me$@daint",
            "[::1%eth0]",
            "@",
        ],
    )
    def test_let_through(self, host: str) -> None:
        """What ssh could take for a destination comes back as it is; ssh itself judges the rest."""
        assert check_destination(host) == host

    @pytest.mark.parametrize(
        ("host", "what"),
        [
            ("", "is empty"),
            ("-", "begins with '-'"),
            ("-oProxyCommand=touch /tmp/x", "begins with '-'"),
            ("--", "begins with '-'"),
            ("daint\n", "contains a control character"),
            ("da\0int", "contains a control character"),
            ("da\rint", "contains a control character"),
            ("da\x1b[31mint", "contains a control character"),
            ("da\x7fint", "contains a control character"),
            ("a b", "it contains ' '"),
            ("a;b", "it contains ';'"),
            ("$(touch x)", "it contains '$'"),
            ("`touch x`@daint", "it contains '`'"),
            ("me@a\\b", "it contains"),
        ],
    )
    def test_refused(self, host: str, what: str) -> None:
        """Options, control characters and nothing at all are refused, and the error can be printed."""
        with pytest.raises(SettingsError) as caught:
            check_destination(host)
        assert what in str(caught.value)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("host", [None, 5, b"daint", Path("daint"), ["daint"]])
    def test_other_types(self, host: Any) -> None:
        """Anything but text is a TypeError that names what it is."""
        with pytest.raises(TypeError, match=type(host).__name__):
            check_destination(host)

    @hypothesis_settings(deadline=None)
    @given(st.text() | st.text("-\n\0\x7fa@ ", max_size=5))
    def test_never(self, host: str) -> None:
        """Whatever is let through is no option and holds no control character of ASCII."""
        try:
            check_destination(host)
        except SettingsError:
            return
        assert host
        assert not host.startswith("-")
        assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in host)


class TestVersion:
    """Which ssh it is."""

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("OpenSSH_7.3p1, OpenSSL 1.0.2h  3 May 2016", (7, 3)),
            ("OpenSSH_7.4p1, OpenSSL 1.0.2k-fips  26 Jan 2017", (7, 4)),
            ("OpenSSH_7.9p1, LibreSSL 2.7.3", (7, 9)),
            ("OpenSSH_8.0p1, OpenSSL 1.1.1k  FIPS 25 Mar 2021", (8, 0)),
            ("OpenSSH_for_Windows_8.1p1, LibreSSL 3.0.2", (8, 1)),
            ("OpenSSH_8.4p1 Debian-5+deb11u3, OpenSSL 1.1.1w  11 Sep 2023", (8, 4)),
            ("OpenSSH_8.6p1, LibreSSL 3.3.6", (8, 6)),
            ("OpenSSH_8.9p1 Ubuntu-3ubuntu0.10, OpenSSL 3.0.2 15 Mar 2022", (8, 9)),
            ("OpenSSH_9.2p1 Debian-2+deb12u3, OpenSSL 3.0.14 4 Jun 2024", (9, 2)),
            ("OpenSSH_for_Windows_9.5p1, LibreSSL 3.8.2", (9, 5)),
            ("OpenSSH_9.8p1, LibreSSL 3.3.6", (9, 8)),
            ("OpenSSH_9.9, LibreSSL 4.0.0", (9, 9)),
            ("OpenSSH_10.0p2, OpenSSL 3.5.0 8 Apr 2025", (10, 0)),
            ("OpenSSH_10.0p1 Debian-7, OpenSSL 3.5.1 1 Jul 2025", (10, 0)),
            ("OpenSSH_9.6p1-hpn15v3, OpenSSL 3.0.13 30 Jan 2024", (9, 6)),
        ],
    )
    def test_parsed(self, text: str, found: tuple[int, int]) -> None:
        """The number is read from what ssh prints on many systems."""
        assert parse_version(f"{text}\n") == found

    @pytest.mark.parametrize(
        "text",
        ["Dropbear v2022.83", "Sun_SSH_1.1.5, SSH protocols 1.5/2.0", "", "OpenSSH", "OpenSSH_portable"],
    )
    def test_not_openssh(self, text: str) -> None:
        """Any other program is refused by the words that it said."""
        with pytest.raises(ToolMissing) as caught:
            parse_version(text)
        assert repr(text) in str(caught.value)

    def test_order(self) -> None:
        """Numbers are compared as numbers: 10.0 is later than 9.9."""
        assert parse_version("OpenSSH_10.0p1") > parse_version("OpenSSH_9.9p1") > programs.OLDEST_VERSION

    def test_installed(self) -> None:
        """The installed ssh is found by its name and asked."""
        require(missing_programs("ssh"))
        ssh = locate("ssh")
        assert Path(ssh).is_absolute()
        assert version(ssh) >= programs.OLDEST_VERSION

    def test_other_program(self) -> None:
        """A program that is there but is not OpenSSH, or cannot be run, is refused."""
        with pytest.raises(ToolMissing, match="is not OpenSSH"):
            version(locate("cat"))
        with pytest.raises(ToolMissing, match="cannot be run"):
            version("/nonexistent/ssh")

    def test_locate(self, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name is looked up on PATH, a path is taken as it is, and a missing program is named."""
        program = isolated / "myssh"
        program.write_text("#!/bin/sh\n")
        with pytest.raises(ToolMissing, match="'myssh' was not found"):
            locate("myssh")
        with pytest.raises(ToolMissing, match="was not found"):
            locate(str(program))  # not executable yet
        program.chmod(0o700)
        monkeypatch.setenv("PATH", str(isolated))
        assert locate("myssh") == locate(str(program)) == str(program)
        monkeypatch.chdir(isolated)
        assert locate("./myssh") == str(program)


class TestParseResolved:
    """What `ssh -G` prints, as a value."""

    def test_values(self) -> None:
        """The first value of an option counts, in any case of its name; `none` is nothing."""
        found = parse_resolved(
            "user me\nhostname EXAMPLE.org\nport 2222\nidentityfile ~/a b\nidentityfile ~/c\n"
            "proxycommand none\nbatchmode no\ncompression yes\ncanonicalizehostname true\nempty \n\n"
        )
        assert (found.user, found.hostname, found.port, found.jumps) == ("me", "example.org", 2222, ())
        assert found.get("IdentityFile") == "~/a b"
        assert found.options["identityfile"] == ("~/a b", "~/c")
        assert found.get("proxycommand") == ""
        assert found.get("missing", "default") == "default"
        assert found.get("proxycommand", "default") == "default"
        assert found.get("empty") == ""
        assert [found.flag(name) for name in ("batchmode", "compression", "canonicalizehostname", "x")] == [
            False,
            True,
            True,
            False,
        ]

    def test_jumps(self) -> None:
        """Jump hosts come in the order in which they are passed."""
        assert parse_resolved("proxyjump a,me@b:23\n").jumps == ("a", "me@b:23")
        assert parse_resolved("proxyjump none\n").jumps == ()


@pytest.fixture
def config(isolated: Path) -> Callable[[str], Path]:
    """Write a configuration file; each call writes the same one anew."""
    require(missing_programs("ssh"))

    def write(text: str) -> Path:
        path = isolated / "ssh_config"
        path.write_text(text)
        return path

    return write


class TestResolve:
    """Where a name leads, by ssh's own word."""

    def test_values(self, config: Callable[[str], Path]) -> None:
        """User, host name and port are those of the configuration, and the programs have absolute paths."""
        path = config("Host daint\nHostName LOGIN.example.org\nUser me\nPort 2222\n")
        found = resolve("daint", path)
        assert (found.host, found.ssh_config, found.address) == (
            "daint",
            path,
            "me@login.example.org:2222",
        )
        assert found.route == (("me", "login.example.org", 2222, ""),)
        assert found.ssh == locate("ssh")
        assert re.fullmatch(r"[0-9a-f]{16}", found.identity)

    @pytest.mark.parametrize(
        ("name", "address"),
        [
            ("daint", "me@login.example.org:2222"),
            ("you@daint", "you@login.example.org:2222"),
            ("ssh://daint", "me@login.example.org:2222"),
            ("ssh://you@daint:23", "you@login.example.org:23"),
            ("a@b@daint", "a@b@login.example.org:2222"),
            ("other.example.org", "root@other.example.org:22"),
            ("::1", "root@::1:22"),
        ],
    )
    def test_forms_of_names(self, config: Callable[[str], Path], name: str, address: str) -> None:
        """Each form that ssh takes is taken: an alias, user@host, a URI, a plain name, an address."""
        path = config("Host daint\nHostName login.example.org\nUser me\nPort 2222\nHost *\nUser root\n")
        assert resolve(name, path).address == address

    def test_path_of_configuration(
        self, config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A relative path is made absolute, and one that is not there is an error that names it."""
        path = config("Host daint\nPort 23\n")
        monkeypatch.chdir(path.parent)
        assert resolve("daint", "ssh_config").ssh_config == path
        monkeypatch.setenv("HOME", str(path.parent))
        assert resolve("daint", "~/ssh_config").ssh_config == path
        with pytest.raises(ConfigurationError, match="there is no file") as caught:
            resolve("daint", "missing")
        assert str(path.parent / "missing") in str(caught.value)

    def test_settings(self, config: Callable[[str], Path], isolated: Path) -> None:
        """The name's settings come with it, and they may name another ssh."""
        config_file().parent.mkdir(parents=True)
        other = isolated / "other-ssh"
        other.symlink_to(locate("ssh"))
        config_file().write_text(f'[host."daint*"]\nssh = "{other}"\npersist = "1h"\n')
        found = resolve("daint1", config("Host *\nPort 23\n"))
        assert (found.settings.persist, found.ssh) == (3600, str(other))
        assert resolve("eiger", found.ssh_config).settings == Settings()

    @pytest.mark.parametrize(
        ("text", "host", "what"),
        [
            ("Colour blue\n", "daint", "Bad configuration option: colour"),
            ("Port twenty\n", "daint", "Bad port"),
            ("Host *\nProxyJump daint\n", "daint", "jumphost loop"),
            ("Host x\n", "me@-x", "hostname contains invalid characters"),
            ("Host daint\nProxyJump jump\nHost jump\nProxyJump daint\n", "daint", "circle"),
            (
                "Host daint\nProxyJump a\nHost a\nProxyJump b\nHost b\nProxyJump c\nHost c\nProxyJump a\n",
                "daint",
                "circle",
            ),
        ],
    )
    def test_refused(self, config: Callable[[str], Path], text: str, host: str, what: str) -> None:
        """What ssh refuses is refused in its words; jumps that lead round in a circle are found out."""
        with pytest.raises(ConfigurationError, match=re.escape(what)) as caught:
            resolve(host, config(text))
        assert caught.value.advice

    def test_bad_destination(self, config: Callable[[str], Path]) -> None:
        """ssh is not even asked about an option."""
        with pytest.raises(SettingsError):
            resolve("-oProxyCommand=false", config(""))

    @pytest.mark.parametrize(
        ("text", "route"),
        [
            ("Host t\nProxyJump a\n", ["me@a:22", "me@t:22"]),
            ("Host t\nProxyJump you@a:23\n", ["you@a:23", "me@t:22"]),
            ("Host t\nProxyJump ssh://you@a:23\n", ["you@a:23", "me@t:22"]),
            ("Host t\nProxyJump a,b\n", ["me@a:22", "me@b:22", "me@t:22"]),
            ("Host t\nProxyJump a\nHost a\nHostName A.org\nPort 24\n", ["me@a.org:24", "me@t:22"]),
            ("Host t\nProxyJump a\nHost a\nProxyJump b\n", ["me@b:22", "me@a:22", "me@t:22"]),
            # the way to b is through a, whatever is said of b
            ("Host t\nProxyJump a,b\nHost b\nProxyJump c\n", ["me@a:22", "me@b:22", "me@t:22"]),
            ("Host t\nProxyJump a,b\nHost a\nProxyJump c\n", ["me@c:22", "me@a:22", "me@b:22", "me@t:22"]),
            ("Host t\nProxyJump none\n", ["me@t:22"]),
            ("Host t\nProxyJump you@[::1]:23\n", ["you@::1:23", "me@t:22"]),
            ("Host t\nProxyJump [::1]\n", ["me@::1:22", "me@t:22"]),
            ("Host t\nProxyJump a@b@c\n", ["a@b@c:22", "me@t:22"]),
            pytest.param("Host t\nProxyJump ssh://you@a:23,ssh://b:24\n", ["you@a:23", "me@b:24", "me@t:22"]),
        ],
    )
    def test_route(self, config: Callable[[str], Path], text: str, route: list[str]) -> None:
        """The jump hosts are resolved as ssh does it on its way."""
        found = resolve("t", config(f"{text}Host *\nUser me\n"))
        assert [f"{user}@{host}:{port}" for user, host, port, _ in found.route] == route


class TestIdentity:
    """Which names are the same place, reached in the same way."""

    BEGIN = "Host one\nHostName a.org\nUser me\n"

    def identity(self, config: Callable[[str], Path], text: str, host: str = "one") -> str:
        """The identity of a host in a configuration."""
        return resolve(host, config(text)).identity

    @pytest.mark.parametrize(
        ("text", "host"),
        [
            ("Host two\nHostName a.org\nUser me\n", "two"),
            ("Host two\nHostName A.ORG\nUser me\nPort 22\nIdentityFile ~/other\n", "two"),
            ("Host *\nUser me\n", "a.org"),
            ("Host x\n", "me@a.org"),
            ("Host x\n", "ssh://me@a.org:22"),
            ("Host one\nHostName a.org\nUser me\nCompression yes\nServerAliveInterval 5\n", "one"),
            ("Match host one\nHostName a.org\nHost *\nUser me\nProxyJump none\nProxyCommand none\n", "one"),
        ],
    )
    def test_same(self, config: Callable[[str], Path], text: str, host: str) -> None:
        """Aliases that lead to the same user, host and port share one identity, however they are written."""
        assert self.identity(config, text, host) == self.identity(config, self.BEGIN)

    def test_all_different(self, config: Callable[[str], Path]) -> None:
        """Another user, host, port, jump or proxy command is another identity; so is an edited jump alias."""
        jump = f"{self.BEGIN}ProxyJump jump\n"
        found = [
            self.identity(config, text)
            for text in (
                self.BEGIN,
                "Host one\nHostName b.org\nUser me\n",
                "Host one\nHostName a.org\nUser you\n",
                "Host one\nHostName a.org\nUser me\nPort 23\n",
                jump,
                f"{jump}Host jump\nHostName j.org\n",
                f"{jump}Host jump\nHostName j.org\nPort 23\n",
                f"{jump}Host jump\nHostName j.org\nUser you\n",
                f"{jump}Host jump\nHostName j.org\nProxyJump far\n",
                f"{jump}Host jump\nHostName j.org\nProxyJump far\nHost far\nHostName f.org\n",
                f"{jump}Host jump\nHostName j.org\nProxyCommand nc %h %p\n",
                f"{self.BEGIN}ProxyJump jump,far\n",
                f"{self.BEGIN}ProxyJump far,jump\n",
                f"{self.BEGIN}ProxyCommand nc %h %p\n",
                f"{self.BEGIN}ProxyCommand nc -4 %h %p\n",
            )
        ]
        assert len(set(found)) == len(found)

    def test_same_by_jump(self, config: Callable[[str], Path]) -> None:
        """A jump host's alias may be written in another way, too."""
        text = f"{self.BEGIN}ProxyJump {{}}\nHost jump\nHostName j.org\nUser you\nPort 23\n"
        same = {
            self.identity(config, text.format(jump))
            for jump in ("jump", "you@j.org:23", "ssh://you@j.org:23", "you@jump")
        }
        assert len(same) == 1

    def test_proxy_command_with_the_name(self, config: Callable[[str], Path]) -> None:
        """Where the proxy command has the name as it was typed (%n), other names are other places."""
        text = "Host one two\nHostName a.org\nUser me\nProxyCommand connect %n\n"
        assert self.identity(config, text, "one") != self.identity(config, text, "two")

    def test_recalled(self, config: Callable[[str], Path]) -> None:
        """The identity is the same in each process, and when the configuration is as it was."""
        before = self.identity(config, self.BEGIN)
        assert self.identity(config, "Host one\nHostName b.org\nUser me\n") != before
        assert self.identity(config, self.BEGIN) == before
        of = "from opensshtransport.openssh.destination import resolve"
        program = f"import sys; {of}; print(resolve(*sys.argv[1:]).identity)"
        argv = [sys.executable, "-c", program, "one", str(config(self.BEGIN))]
        assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == before


def destination(
    settings: Settings | None = None, *, ssh_config: str | None = "/c", **options: str
) -> Destination:
    """A destination of values alone."""
    told = {"user": "me", "hostname": "a.org", "port": "22", "serveraliveinterval": "0", **options}
    resolved = parse_resolved("".join(f"{name} {value}\n" for name, value in told.items()))
    return Destination(
        host="daint",
        ssh_config=None if ssh_config is None else Path(ssh_config),
        settings=settings or Settings(),
        ssh="/usr/bin/ssh",
        resolved=resolved,
        route=(("me", "a.org", 22, ""),),
    )


def without(argv: list[str], *words: str) -> list[str]:
    """A command line without some of its words; each must occur in it once."""
    for word in words:
        argv = [*argv]
        argv.remove(word)
    return argv


class TestMasterCommand:
    """The line that logs in."""

    PLAIN = [  # noqa: RUF012  # a constant
        "/usr/bin/ssh",
        *("-F", "/c", "-N", "-f", "-E", "/log"),
        "-oControlMaster=auto",
        *("-S", "/s"),
        "-oControlPersist=43200",
        "-oNumberOfPasswordPrompts=1",
        "-oLogLevel=VERBOSE",
        "-oBatchMode=no",
        "-oExitOnForwardFailure=no",
        "-oClearAllForwardings=yes",
        "-oTunnel=no",
        "-oServerAliveInterval=20",
        "-oServerAliveCountMax=3",
        "-oConnectTimeout=30",
        *("--", "daint"),
    ]

    def command(self, where: Destination, path: str = "/s", *, batch: bool = False) -> list[str]:
        """The command line with a socket and log."""
        return master_command(where, socket=Path(path), log=Path("/log"), batch=batch)

    def test_plain(self) -> None:
        """Without any settings it is exactly this; the destination comes last, after `--`."""
        assert self.command(destination()) == self.PLAIN

    def test_own_configuration(self) -> None:
        """Without a named configuration file ssh reads its own."""
        assert self.command(destination(ssh_config=None)) == without(self.PLAIN, "-F", "/c")

    def test_batch(self) -> None:
        """Where nobody can answer, ssh must not ask."""
        assert "-oBatchMode=yes" in self.command(destination(), batch=True)
        assert "-oBatchMode=no" not in self.command(destination(), batch=True)

    @pytest.mark.parametrize(
        ("settings", "options", "expected"),
        [
            (Settings(), {}, {"ServerAliveInterval": "20", "ServerAliveCountMax": "3"}),
            (Settings(), {"serveraliveinterval": "15"}, {}),
            (Settings(server_alive_count_max=9), {"serveraliveinterval": "15"}, {"ServerAliveCountMax": "9"}),
            (
                Settings(server_alive_interval=60),
                {},
                {"ServerAliveInterval": "60", "ServerAliveCountMax": "3"},
            ),
            (
                Settings(server_alive_interval=60, server_alive_count_max=5),
                {"serveraliveinterval": "15"},
                {"ServerAliveInterval": "60", "ServerAliveCountMax": "5"},
            ),
            (
                Settings(server_alive_interval=0),
                {"serveraliveinterval": "15"},
                {"ServerAliveInterval": "0", "ServerAliveCountMax": "3"},
            ),
        ],
    )
    def test_alive(self, settings: Settings, options: dict[str, str], expected: dict[str, str]) -> None:
        """Settings decide, then ssh_config, and where neither says anything it is a minute in all."""
        argv = self.command(destination(settings, **options))
        found = dict(word[2:].split("=", 1) for word in argv if word.startswith("-oServerAlive"))
        assert found == expected

    def test_connect_timeout(self) -> None:
        """ssh_config's ConnectTimeout is kept, else the settings' holds."""
        assert "-oConnectTimeout=7" in self.command(destination(Settings(connect_timeout=7)))
        argv = self.command(destination(connecttimeout="5"))
        assert argv == without(self.PLAIN, "-oConnectTimeout=30")
        assert "-oConnectTimeout=30" in self.command(destination(connecttimeout="none"))

    def test_persist(self) -> None:
        """A time of 0 means forever, which ssh calls `yes`."""
        assert "-oControlPersist=60" in self.command(destination(Settings(persist=60)))
        assert "-oControlPersist=yes" in self.command(destination(Settings(persist=0)))

    def test_forwards(self) -> None:
        """Forwardings of ssh_config are made where the settings want them; none ever ends a login."""
        argv = self.command(destination(Settings(forwards=True)))
        assert argv == without(self.PLAIN, "-oClearAllForwardings=yes", "-oTunnel=no")
        assert "-oExitOnForwardFailure=no" in argv

    def test_remote_command(self) -> None:
        """A RemoteCommand of ssh_config is switched off, because ssh refuses -N together with it."""
        assert "-oRemoteCommand=none" in self.command(destination(remotecommand="tmux"))
        assert "-oRemoteCommand=none" not in self.command(destination(remotecommand="none"))

    def test_length_of_the_path(self) -> None:
        """A socket's path of more than 86 bytes is refused before the login; letters are not bytes."""
        longest = "/" + 85 * "x"
        assert longest in self.command(destination(), longest)
        for path in (f"{longest}x", "/" + 43 * "ü"):
            with pytest.raises(SettingsError, match="longer than 86 bytes"):
                self.command(destination(), path)

    def test_path_with_percent(self) -> None:
        """A percent sign in the path is one for ssh too."""
        assert "/a%%C" in self.command(destination(), "/a%C")


class TestGuardedCommands:
    """The lines that never log in, as values."""

    GUARD = [  # noqa: RUF012  # a constant
        "-oControlMaster=no",
        "-oProxyCommand=false",
        "-oProxyJump=none",
        "-oBatchMode=yes",
    ]

    def test_guard(self) -> None:
        """The guard is exactly this; it may leave a mark on stderr, and no word of the others changes."""
        assert guard() == self.GUARD
        (mark,) = set(guard(mark=True)) - set(self.GUARD)
        assert mark.startswith("-oProxyCommand=")
        assert NO_MASTER in mark
        assert [word for word in guard(mark=True) if word != mark] == without(
            self.GUARD, "-oProxyCommand=false"
        )

    def test_options(self) -> None:
        """Before it come ssh, the configuration and the path, after it what overrides ssh_config."""
        begin = ["/usr/bin/ssh", "-F", "/c", "-S", "/s", *self.GUARD, "-oClearAllForwardings=yes"]
        assert guarded_options(destination(), "/s") == guarded_options(destination(), Path("/s")) == begin
        assert guarded_options(destination(ssh_config=None), "/s") == without(begin, "-F", "/c")
        assert guarded_options(destination(remotecommand="tmux"), "/s") == [*begin, "-oRemoteCommand=none"]

    def test_ssh(self) -> None:
        """A session's options come before `--`, the destination and the command after it."""
        begin = guarded_options(destination(), "/s", mark=True)
        # LogLevel QUIET in ssh_config would hide why there is no session
        said = "-oLogLevel=INFO"
        end = ["--", "daint"]
        assert guarded_ssh(destination(), "/s") == [*begin, "-T", said, *end]
        assert guarded_ssh(destination(), "/s", command="-x; y") == [*begin, "-T", said, *end, "-x; y"]
        assert guarded_ssh(destination(), "/s", command="") == [*begin, "-T", said, *end, ""]
        assert guarded_ssh(destination(), "/s", tty=1) == [*begin, "-t", said, *end]
        assert guarded_ssh(destination(), "/s", tty=2) == [*begin, "-t", "-t", said, *end]
        assert guarded_ssh(destination(), "/s", no_stdin=True) == [*begin, "-T", "-n", said, *end]
        assert guarded_ssh(destination(), "/s", forward="b:1") == [*begin, "-T", said, "-W", "b:1", *end]
        # the log tells what the mark would
        assert guarded_ssh(destination(), "/s", log=Path("/log")) == [
            *guarded_options(destination(), "/s"),
            *("-T", "-E", "/log", "-oLogLevel=DEBUG2"),
            *end,
        ]

    def test_copies(self) -> None:
        """scp and sftp start this very ssh, with the same guard, and no terminal."""
        require(missing_programs("scp", "sftp"))
        where = destination(Settings(scp="scp", sftp="sftp"))
        begin = ["-S", "/usr/bin/ssh", "-F", "/c", '-oControlPath="/s"', *guard(mark=True)]
        begin += ["-oLogLevel=INFO", "-oRequestTTY=no"]
        assert guarded_scp(where, "/s", ["-p", "--", "a", "daint:b"]) == [
            locate("scp"),
            *begin,
            *("-p", "--", "a", "daint:b"),
        ]
        assert guarded_sftp(where, "/s", ["-b", "-"]) == [locate("sftp"), *begin, "-b", "-", "--", "daint"]
        theirs = destination(Settings(), remotecommand="tmux")
        assert "-oRemoteCommand=none" in guarded_sftp(theirs, "/s")
        missing = replace(where, settings=Settings(scp="/nonexistent/scp"))
        with pytest.raises(ToolMissing):
            guarded_scp(missing, "/s", [])

    @hypothesis_settings(deadline=None)
    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0${}~\"'\\#"), max_size=20))
    def test_literal(self, name: str) -> None:
        """A path is doubled in nothing but its percent signs."""
        assert literal(Path(f"/{name}")).replace("%%", "%") == str(Path(f"/{name}"))


# -- on a real server ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A node, and a directory of its user's; the user's start-up files say nothing."""

    node: Sandbox
    home: Path

    def resolve(self, directory: Path, more: str = "", **changed: str) -> Destination:
        """The node by a configuration of the test's own, with more lines, or values that are changed."""
        text = self.node.ssh_config.read_text()
        for option, value in changed.items():
            text = re.sub(f"^{option} .*", f"{option} {value}", text, flags=re.MULTILINE)
        path = directory / "ssh_config"
        path.write_text(text + more)
        return resolve(self.node.host, path)

    def jump(self) -> str:
        """What is added to the configuration for a way through a jump host, which is the node itself."""
        node = self.node
        return f"ProxyJump jump\n{node.ssh_config.read_text().replace(f'Host {node.host}', 'Host jump')}"


@pytest.fixture(scope="module")
def place(
    request: pytest.FixtureRequest, passable: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A place for all tests here."""
    require(missing_programs("ssh", "scp", "sftp", "sshd"))
    if missing_for_users():
        yield Place(request.getfixturevalue("node"), tmp_path_factory.mktemp("home"))
        return
    with shell_node(passable, "dash") as (node, user):
        yield Place(node, user.home)


@contextmanager
def live_master(where: Destination, path: Path) -> Iterator[Path]:
    """A master that is running as long as the `with` block."""
    log = path.with_name("log")
    argv = master_command(where, socket=path, log=log, batch=True)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=20, check=False)
    assert done.returncode == 0, log.read_text()
    try:
        yield path
    finally:
        argv = [where.ssh, "-F", "none", "-S", literal(path), "-O", "exit", "--", "master"]
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True)


def run(argv: Sequence[str], *, seconds: float = 20) -> subprocess.CompletedProcess[str]:
    """Run a local program that must end soon."""
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
    )


@dataclass(frozen=True, slots=True)
class Work:
    """A guarded command line for each program."""

    ssh: list[str]
    put: list[str]
    get: list[str]
    sftp: list[str]

    @classmethod
    def of(cls, where: Destination, control_path: str, directory: Path, home: Path) -> Work:
        """Say words, put a file by scp, get it back by scp's older protocol, and put it again by sftp."""
        source, batch = directory / "source", directory / "batch"
        old = old_protocol(locate("scp"))
        source.write_text("bytes")
        batch.write_text(f'put "{source}" "{home}/put.sftp"\nls -1 "{home}/put.sftp"\n')
        return cls(
            guarded_ssh(where, control_path, command="echo it worked", no_stdin=True),
            guarded_scp(where, control_path, ["-q", "--", str(source), f"{where.host}:{home}/put"]),
            guarded_scp(
                where, control_path, ["-q", *old, "--", f"{where.host}:{home}/put", str(directory / "got")]
            ),
            guarded_sftp(where, control_path, ["-q", "-b", str(batch)]),
        )

    def __iter__(self) -> Iterator[list[str]]:
        return iter([self.ssh, self.put, self.get, self.sftp])


def works(where: Destination, control_path: str, directory: Path, place: Place) -> None:
    """Run each guarded command line, and see that it did its work: no complaint, no connection."""
    before = place.node.connections()
    for argv in Work.of(where, control_path, directory, place.home):
        done = run(argv)
        assert (done.returncode, done.stderr) == (0, ""), shlex.join(argv)
    assert "put.sftp" in done.stdout
    names = (directory / "got", place.home / "put", place.home / "put.sftp")
    assert [name.read_text() for name in names] == ["bytes"] * 3
    for name in names:
        name.unlink()
    assert place.node.connections() == before


_ENDS: list[Any] = [
    *("continue connecting", "(?i)password", "(?i)passphrase", "(?i)code", pexpect.TIMEOUT),
    pexpect.EOF,
]


def dials_nobody(where: Destination, control_path: str, directory: Path, place: Place) -> None:
    """Run each guarded command line at a terminal, and see that it fails at once, alone, asking nothing."""
    before = place.node.connections()
    for argv in Work.of(where, control_path, directory, place.home):
        begin = time.monotonic()
        spawned: pexpect.spawn[str] = pexpect.spawn(argv[0], argv[1:], encoding="utf-8", timeout=10)
        found = spawned.expect(_ENDS)
        spawned.close()
        assert time.monotonic() - begin < 1, shlex.join(argv)
        assert _ENDS[found] is pexpect.EOF, f"{shlex.join(argv)} said {spawned.before}{spawned.after}"
        assert spawned.exitstatus not in {0, None}
        assert "it worked" not in (spawned.before or "")
    assert not list(place.home.glob("put*"))
    assert place.node.connections() == before


@pytest.fixture
def asking(place: Place, isolated: Path) -> Destination:
    """The node, by a configuration in which ssh would ask whether to trust its host key."""
    return place.resolve(isolated, StrictHostKeyChecking="ask", UserKnownHostsFile="/dev/null")


@pytest.mark.client
class TestGuard:
    """The guard on a real server: with a live master it changes nothing, without one nothing connects."""

    def test_live(self, place: Place, isolated: Path) -> None:
        """Over a live master ssh, scp and sftp do their work through the one connection there is."""
        where = place.resolve(isolated)
        with live_master(where, isolated / "s") as path:
            works(where, str(path), isolated, place)

    def test_link(self, place: Place, isolated: Path) -> None:
        """A link to the socket works like the socket itself."""
        where = place.resolve(isolated)
        (isolated / "link").symlink_to(isolated / "s")
        with live_master(where, isolated / "s"):
            works(where, str(isolated / "link"), isolated, place)

    def test_unguarded(self, place: Place, asking: Destination) -> None:
        """Without the guard the same configuration does dial, and does ask: so the tests below can fail."""
        before = place.node.connections()
        argv = ["-F", str(asking.ssh_config), asking.host, "true"]
        spawned: pexpect.spawn[str] = pexpect.spawn(asking.ssh, argv, encoding="utf-8", timeout=10)
        assert spawned.expect(_ENDS) == 0
        spawned.close(force=True)
        assert place.node.connections() == before + 1

    def test_no_socket(self, place: Place, asking: Destination, isolated: Path) -> None:
        """Where there is no socket."""
        dials_nobody(asking, str(isolated / "missing"), isolated, place)

    def test_no_directory(self, place: Place, asking: Destination, isolated: Path) -> None:
        """Where there is no directory for one either."""
        dials_nobody(asking, str(isolated / "missing" / "%C"), isolated, place)

    def test_stale_socket(self, place: Place, asking: Destination, isolated: Path) -> None:
        """Where nobody listens at the socket; it stays, for anyone who opens the next master."""
        stale = isolated / "stale"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(stale))
        dials_nobody(asking, str(stale), isolated, place)
        assert stale.exists()

    def test_dangling_link(self, place: Place, asking: Destination, isolated: Path) -> None:
        """Where a link leads to no socket."""
        (isolated / "link").symlink_to(isolated / "missing")
        dials_nobody(asking, str(isolated / "link"), isolated, place)

    def test_no_further_session(self, place: Place, isolated: Path) -> None:
        """Where the server's MaxSessions is used up, though the master is running."""
        with Sandbox("few", place.node.user, server_options={"MaxSessions": "1"}) as node:
            few = Place(node, place.home)
            where = few.resolve(isolated)
            with live_master(where, isolated / "s") as path:
                argv = guarded_ssh(where, path, command="echo ready; exec cat")
                with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
                    assert first.stdout
                    assert first.stdout.readline() == b"ready\n"
                    dials_nobody(where, str(path), isolated, few)
                # the server takes its time to end the first one
                again = guarded_ssh(where, path, command="echo it worked", no_stdin=True)
                wait_until(lambda: run(again).stdout == "it worked\n", what="a session")
                assert node.connections() == 1

    @pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "tcsh", "fish"])
    def test_mark(
        self, asking: Destination, isolated: Path, monkeypatch: pytest.MonkeyPatch, shell: str
    ) -> None:
        """Whatever shell ssh uses to start a ProxyCommand, the mark is printed and identifies the case."""
        require(missing_programs(shell))
        monkeypatch.setenv("SHELL", locate(shell))
        monkeypatch.chdir(isolated)
        before = set(isolated.iterdir())
        for _ in range(10):
            done = run(guarded_ssh(asking, isolated / "missing", command="true"))
            assert NO_MASTER in done.stderr.splitlines()
            # at a terminal the lines end in another way
            for said in (done.stderr, done.stderr.replace("\n", "\r\n")):
                assert classify(said, 255) is MasterGone
        assert set(isolated.iterdir()) == before

    def test_jump_is_not_dialled(self, place: Place, isolated: Path) -> None:
        """Where the way leads through a jump host, that is not dialled either."""
        where = place.resolve(isolated, place.jump())
        assert len(where.route) == 2
        dials_nobody(where, str(isolated / "missing"), isolated, place)

    @pytest.mark.parametrize(
        "name",
        [
            "100%",
            "%C%%h",
            "two words",
            "it's a \"b\\",
        ],
    )
    def test_odd_directory(self, place: Place, isolated: Path, name: str) -> None:
        """A socket in a directory with an odd name can be reached."""
        where = place.resolve(isolated)
        if '"' in name and version(where.ssh) < (8, 7):
            pytest.skip("before 8.7 scp and sftp cannot be told of a path with a quote and a blank")
        directory = isolated / name
        directory.mkdir()
        with live_master(where, directory / "s") as path:
            assert path.is_socket()
            works(where, literal(path), isolated, place)


@pytest.mark.client
class TestConfigurationOfSessions:
    """What ssh_config says for an interactive login does not disturb a guarded session."""

    @pytest.mark.parametrize(
        "more",
        [
            "RequestTTY force\nRemoteCommand echo theirs\n",
            # before 8.7 it is not known
            "IgnoreUnknown SessionType\nSessionType none\n",
            "LocalForward 127.0.0.1:{local} [::1]:1\nRemoteForward 127.0.0.1:{remote} [::1]:1\n",
            "ControlMaster auto\nControlPath {directory}/theirs\nControlPersist yes\nLogLevel QUIET\n",
            "PermitLocalCommand yes\nLocalCommand echo local\n",
            "{jump}",
        ],
        ids=lambda more: more.split()[0].strip("{}"),
    )
    def test_undisturbed(self, place: Place, isolated: Path, more: str) -> None:
        """The work is done as without it, over the same connection, and the output is exact."""
        values = {"directory": isolated, "jump": place.jump()}
        with socket.socket() as first, socket.socket() as second:
            # taken, so a session that asks for a forwarding gets into trouble
            for name, taken in (("local", first), ("remote", second)):
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                values[name] = taken.getsockname()[1]
            where = place.resolve(isolated, more.format(**values))
            with live_master(where, isolated / "s") as path:
                before = place.node.connections()
                argv = guarded_ssh(where, path, command="printf 'a\\r\\nb'; tty >&2; exit 3", no_stdin=True)
                done = subprocess.run(
                    argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
                )
                assert (done.returncode, done.stdout, done.stderr) == (3, b"a\r\nb", b"not a tty\n")
                work = Work.of(where, str(path), isolated, place.home)
                for argv in (work.put, work.get):
                    copied = run(argv)
                    assert (copied.returncode, copied.stderr) == (0, ""), shlex.join(argv)
                assert place.node.connections() == before
        for copy in (isolated / "got", place.home / "put"):
            copy.unlink()

    def test_forwarding(self, place: Place, isolated: Path) -> None:
        """A session opens no port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with live_master(place.resolve(isolated), isolated / "s") as path:
            where = place.resolve(isolated, f"LocalForward 127.0.0.1:{port} 127.0.0.1:{place.node.port}\n")
            assert run(guarded_ssh(where, path, command="echo here", no_stdin=True)).stdout == "here\n"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()

    @pytest.mark.parametrize("more", ["RequestTTY force\n", "RemoteCommand echo theirs\n"], ids=str.strip)
    def test_undisturbed_sftp(self, place: Place, isolated: Path, more: str) -> None:
        """The same for sftp, whose session is a subsystem and no command."""
        where = place.resolve(isolated, more)
        with live_master(where, isolated / "s") as path:
            done = run(Work.of(where, str(path), isolated, place.home).sftp, seconds=3)
            assert (done.returncode, done.stderr) == (0, "")
            assert "put.sftp" in done.stdout
            (place.home / "put.sftp").unlink()
