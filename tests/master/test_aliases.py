"""`master.aliases`: the file by which `ossh-run` goes straight to a master knows if it is true.

It is sourced by real shells, while the configuration that it was made from is edited in every way.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from opensshtransport.local.settings import config_file
from opensshtransport.login import login
from opensshtransport.master.aliases import name_of, publish, withdraw
from opensshtransport.master.facts import Facts
from opensshtransport.master.master import Master
from opensshtransport.openssh import command_lines, programs
from opensshtransport.openssh.destination import resolve
from opensshtransport.remote.wrapper import wrapper
from opensshtransport.sandbox import Sandbox
from tests.conftest import require
from tests.support.nodes import missing_programs, shell_node
from tests.support.users import missing_for_users

_SHELLS = (["/bin/sh"], ["dash"], ["bash"], ["busybox", "sh"])


@dataclass(frozen=True, slots=True)
class Published:
    """A name whose file was written."""

    master: Master
    file: Path

    @property
    def asks_ssh(self) -> bool:
        """Whether the file asks `ssh -G`; else it compares times."""
        return " -G " in self.file.read_text()

    def unchanged(self) -> bool:
        """Ask the file by each kind of sh, which must agree."""
        script = 'set -u; . "$1" && ossh_unchanged'
        found = set()
        for shell in _SHELLS:
            done = subprocess.run(
                [*shell, "-c", script, "sh", self.file],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode in {0, 1}, (shell, done)
            assert (done.stdout, done.stderr) == ("", ""), shell
            found.add(done.returncode == 0)
        assert len(found) == 1, self.file.read_text()
        return found.pop()

    def values(self) -> dict[str, str]:
        """The variables that the file sets, as dash reads them."""
        names = re.findall(r"^(ossh_\w+)=", self.file.read_text(), re.MULTILINE)
        script = '. "$1"; ' + "".join(f'printf "%s\\0" "${name}"; ' for name in names)
        argv: list[str | Path] = ["dash", "-c", script, "sh", self.file]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return dict(zip(names, said.split("\0")[:-1], strict=True))


def facts_of(master: Master, shell: str = "/bin/bash") -> Facts:
    """What is known of a master that is said to listen where ours do."""
    where = master.destination
    # the file that is published looks whether a socket of ours is there
    master.own_socket.touch()
    return Facts(
        host=where.host,
        ssh_config=str(where.ssh_config),
        address=where.address,
        socket=str(master.own_socket),
        pid=1,
        since=0.0,
        ours=True,
        shell=shell,
    )


def publish_name(host: str, config: Path, shell: str = "/bin/bash") -> Published:
    """Write the file of a name."""
    master = Master(resolve(host, config))
    publish(master, facts_of(master, shell))
    name = name_of(host, config)
    assert name
    return Published(master, master.directory / "names" / name)


def withdraw_name(master: Master) -> None:
    """Forget a name's file."""
    withdraw(master.directory, master.destination.host, master.destination.ssh_config)


def age(*paths: Path, seconds: float = 100) -> None:
    """Let files look as if nobody had edited them for a while; later edits show in their times then."""
    for path in paths:
        moment = time.time() - seconds
        os.utime(path, (moment, moment + 0.25), follow_symlinks=False)


def edit_in_whole_seconds(path: Path) -> None:
    """Let a file look as if it was edited in this second, on a file system with whole seconds."""
    os.utime(path, (int(time.time()), int(time.time())))


TEXT = """\
Host t
  HostName a.org
  ProxyJump jump
Host jump
  HostName j.org
  ProxyJump far
Host far
  HostName f.org
Host *
  User me
"""


@pytest.fixture(autouse=True)
def _programs() -> None:
    require(missing_programs("ssh", "dash", "bash", "busybox"))


@pytest.fixture
def config(isolated: Path) -> Path:
    """A configuration that includes one file by name and others by a pattern."""
    (isolated / "d").mkdir()
    included = isolated / "included"
    included.write_text("Host other\nPort 23\n")
    (isolated / "d" / "1.conf").write_text("Host another\nPort 24\n")
    path = isolated / "ssh_config"
    path.write_text(f"Include {included}\nInclude {isolated}/d/*.conf\n{TEXT}")
    config_file().parent.mkdir(parents=True)
    age(path, included, isolated / "d", isolated / "d" / "1.conf", config_file().parent)
    return path


@pytest.fixture(params=["times", "answers"])
def published(request: pytest.FixtureRequest, config: Path) -> Published:
    """The name `t`, in a file that compares times, or that asks ssh as the configuration may vary."""
    if request.param == "answers":
        more = f'Match exec "test -e {config.parent}/flag"\n  HostName flag.org\n'
        config.write_text(f"{config.read_text()}{more}")
        age(config)
    made = publish_name("t", config)
    assert made.asks_ssh is (request.param == "answers")
    return made


def in_place(old: str, new: str) -> Callable[[Path], None]:
    """Replace words in the file itself."""

    def edit(config: Path) -> None:
        with config.open("r+") as file:
            text = file.read()
            assert old in text
            file.seek(0)
            file.truncate()
            file.write(text.replace(old, new))

    return edit


def by_rename(config: Path) -> None:
    """Replace the file by another one, as editors do."""
    other = config.with_name("other")
    other.write_text(config.read_text().replace("a.org", "another.org"))
    other.replace(config)


def by_older_copy(config: Path) -> None:
    """Replace the file by a copy of one that is older, with its times (cp -p)."""
    other = config.with_name("other")
    other.write_text(config.read_text().replace("a.org", "b.org"))
    age(other, seconds=1000)
    subprocess.run(["cp", "-p", other, config], check=True)


EDITS: dict[str, Callable[[Path], object]] = {
    "in place": in_place("a.org", "another.org"),
    "of the same size": in_place("a.org", "b.org"),
    "user": in_place("User me", "User you"),
    "by rename": by_rename,
    "by an older copy": by_older_copy,
    "of the jump host": in_place("j.org", "k.org"),
    "of the jump of the jump host": in_place("f.org", "g.org"),
    "of an included file": lambda config: config.with_name("included").write_text("Host t\nPort 25\n"),
    "of a file included by a pattern": lambda config: (config.parent / "d" / "1.conf").write_text(
        "Host t\nPort 25\n"
    ),
    "a new file for a pattern": lambda config: (config.parent / "d" / "2.conf").write_text(
        "Host t\nPort 25\n"
    ),
    "removed": Path.unlink,
    "unreadable": lambda config: config.write_text("Colour blue\n"),
    "settings": lambda _: config_file().write_text('[host.t]\nssh = "/opt/ssh"\n'),
}


class TestUnchanged:
    """Whether the file is still valid."""

    def test_nothing_happened(self, published: Published) -> None:
        """As long as nothing changes it says so, again and again."""
        assert published.unchanged()
        assert published.unchanged()

    @pytest.mark.parametrize("edit", EDITS)
    def test_edit(self, published: Published, config: Path, edit: str) -> None:
        """Each edit is noticed, whether times are compared or answers."""
        EDITS[edit](config)
        assert not published.unchanged()

    def test_put_back(self, published: Published, config: Path) -> None:
        """An edit that is taken back, with its times, leaves the file true."""
        before, stamps = config.read_text(), config.stat()
        EDITS["in place"](config)
        assert not published.unchanged()
        config.write_text(before)
        os.utime(config, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
        assert published.unchanged()

    def test_settings_are_edited(self, config: Path) -> None:
        """Settings that were there when the file was written are watched, too."""
        config_file().write_text("[host.t]\npersist = 1\n")
        age(config_file())
        published = publish_name("t", config)
        assert not published.asks_ssh
        assert published.unchanged()
        config_file().write_text("[host.t]\npersist = 2\n")
        assert not published.unchanged()

    def test_settings_are_removed(self, config: Path) -> None:
        """So is their end."""
        config_file().write_text("")
        age(config_file())
        published = publish_name("t", config)
        config_file().unlink()
        assert not published.unchanged()

    def test_included_file_comes(self, config: Path) -> None:
        """A file that is included by name and missing is noticed when it comes."""
        config.write_text(f"Include {config.parent}/missing\n{TEXT}")
        age(config)
        published = publish_name("t", config)
        assert not published.asks_ssh
        assert published.unchanged()
        (config.parent / "missing").write_text("Host t\nPort 25\n")
        assert not published.unchanged()

    def test_deep_include(self, config: Path) -> None:
        """A file that an included file includes is watched."""
        deep = config.with_name("deep")
        deep.write_text("Host other\n")
        config.with_name("included").write_text(f'Host t\n  Include="{deep}"\n')
        age(deep, config.with_name("included"))
        published = publish_name("t", config)
        assert not published.asks_ssh
        assert published.unchanged()
        deep.write_text("Host t\nPort 25\n")
        assert not published.unchanged()

    def test_changing_answers(self, config: Path) -> None:
        """Where `Match exec` decides, ssh is asked, so a change without any edit is noticed and undone."""
        flag = config.with_name("flag")
        config.write_text(f'Match exec "test -e {flag}"\n  HostName flag.org\n{TEXT}')
        age(config)
        published = publish_name("t", config)
        assert published.asks_ssh
        assert published.unchanged()
        flag.touch()
        assert not published.unchanged()
        flag.unlink()
        assert published.unchanged()

    def test_changing_answers_of_the_jump_host(self, config: Path) -> None:
        """The same for the jump host's name."""
        flag = config.with_name("flag")
        config.write_text(f'Match host jump exec "test -e {flag}"\n  HostName flag.org\n{TEXT}')
        age(config)
        published = publish_name("t", config)
        assert published.asks_ssh
        assert published.unchanged()
        flag.touch()
        assert not published.unchanged()

    @pytest.mark.parametrize(
        ("more", "asks"),
        [
            ("", False),
            ("Match host t\nPort 25\n", False),
            ("Match all\nPort 25\n", False),
            ("Match originalhost t,u !user you\nPort 25\n", False),
            ("CanonicalizeHostname no\n", False),
            ('Match exec "true"\n', True),
            ('Match host t exec "true"\n', True),
            ('Match !exec "true"\n', True),
            ("match final\n", True),
            ("Match canonical\n", True),
            ("CanonicalizeHostname yes\n", True),
            ("CanonicalizeHostname always\n", True),
        ],
    )
    def test_which_way(self, config: Path, more: str, asks: bool) -> None:
        """Times are compared only where nothing but an edit can change what a name means."""
        # addresses, which need no name service
        config.write_text(more + re.sub("[a-z].org", "127.0.0.1", TEXT))
        age(config)
        published = publish_name("t", config)
        assert published.asks_ssh is asks
        assert published.unchanged()

    def test_just_edited(self, config: Path) -> None:
        """Right after an edit, when the next one might show no other time, ssh is asked."""
        config.write_text(TEXT)
        edit_in_whole_seconds(config)
        published = publish_name("t", config)
        assert published.asks_ssh
        assert published.unchanged()
        config.write_text(TEXT.replace("a.org", "b.org"))
        edit_in_whole_seconds(config)
        assert not published.unchanged()

    def test_from_the_future(self, config: Path) -> None:
        """So it is where a file's time lies ahead."""
        age(config, seconds=-1000)
        assert publish_name("t", config).asks_ssh

    @pytest.mark.parametrize(
        "pattern",
        [
            pytest.param("nothing-of-that-name"),
            pytest.param("~/nothing-of-that-name"),
        ],
    )
    def test_where_includes_are(
        self, config: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
    ) -> None:
        """As for ssh, a relative path is below ~/.ssh even with -F, and home is that of the account."""
        monkeypatch.setenv("HOME", str(isolated))
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        config.write_text(f"Include {pattern}\n{TEXT}")
        age(config)
        expected = home / ".ssh" / pattern if "~" not in pattern else home / pattern[2:]
        assert f"-e {shlex.quote(str(expected))} " in publish_name("t", config).file.read_text()


class TestFile:
    """What is in the file."""

    def test_values(self, config: Path) -> None:
        """Each value reaches the shell as it was, and the way leads through a link to the socket."""
        published = publish_name("t", config)
        values = published.values()
        master = published.master
        assert values["ossh_host"] == "t"
        assert values["ossh_config"] == str(config)
        assert values["ossh_ssh"] == programs.locate("ssh")
        assert values["ossh_posix"] == "yes"
        assert re.fullmatch(r"[0-9a-f]{16}", values["ossh_mark"])
        # each run of `ossh-run` adds something of its own behind the mark
        mark = f"{values['ossh_mark']}.run"
        wrap = wrapper(mark, posix=True)
        assert f"{values['ossh_before']}{mark}{values['ossh_begin']}" == wrap.before
        assert (values["ossh_tty_before"], values["ossh_after"]) == (wrap.tty_before, wrap.after)
        assert values["ossh_options"].split() == [
            word for word in command_lines.guarded_options(master.destination, "") if word.startswith("-o")
        ]
        directory, last = os.path.split(values["ossh_path"])
        assert last == "%C"
        (link,) = [path for path in Path(directory.replace("%%", "%")).iterdir() if path.is_symlink()]
        assert link.readlink() == master.own_socket
        assert published.file.stat().st_mode & 0o777 == 0o600

    def test_other_shells(self, config: Path) -> None:
        """For a login shell that is not of the POSIX family, and for one that is not known."""
        assert publish_name("t", config, "/usr/bin/fish").values()["ossh_posix"] == ""
        values = publish_name("t", config, "").values()
        assert (values["ossh_mark"], values["ossh_before"], values["ossh_after"]) == ("", "", "")

    def test_marks_differ(self, config: Path) -> None:
        """Each file has a mark of its own, so no output can know it beforehand."""
        marks = []
        for shell in ("/bin/bash", "/bin/tcsh", "/bin/bash"):
            published = publish_name("t", config, shell)
            marks.append(published.values()["ossh_mark"])
            # the same text stays
            assert publish_name("t", config, shell).values()["ossh_mark"] == marks[-1]
        withdraw_name(published.master)
        marks.append(publish_name("t", config).values()["ossh_mark"])
        assert len(set(marks)) == 4

    def test_odd_paths(self, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Blanks, quotes, dollar and percent signs in paths change nothing."""
        odd = isolated / 'it\'s a "$HOME" `x` 100%'
        odd.mkdir()
        monkeypatch.setenv("XDG_CONFIG_HOME", str(odd))
        config = odd / "ssh_config"
        config.write_text(TEXT)
        for moment in ("fresh", "old"):
            if moment == "old":
                age(config, odd)
            else:
                edit_in_whole_seconds(config)
            published = publish_name("t", config)
            assert published.asks_ssh is (moment == "fresh")
            assert published.values()["ossh_config"] == str(config)
            assert published.unchanged()
            config.write_text(TEXT.replace("a.org", "b.org"))
            assert not published.unchanged()
            config.write_text(TEXT)

    def test_odd_runtime_directory(
        self, config: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same for the directory of the sockets; the link is where ssh looks for it."""
        odd = isolated / "a b 100%"
        odd.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(odd))
        published = publish_name("t", config)
        assert published.file.is_relative_to(odd)
        assert published.unchanged()
        values = published.values()
        argv = ["ssh", "-F", str(config), "-S", values["ossh_path"], *values["ossh_options"].split()]
        told = subprocess.run([*argv, "-G", "--", "t"], capture_output=True, text=True, check=True).stdout
        (path,) = [line.split(" ", 1)[1] for line in told.splitlines() if line.startswith("controlpath ")]
        assert Path(path).readlink() == published.master.own_socket

    def test_edited_since(self, config: Path) -> None:
        """Where the name has come to lead elsewhere since it was resolved, nothing is written."""
        master = Master(resolve("t", config))
        for text in (TEXT.replace("a.org", "b.org"), TEXT.replace("f.org", "g.org"), "Colour blue\n"):
            config.write_text(text)
            publish(master, facts_of(master))
            assert not (master.directory / "names" / str(name_of("t", config))).exists()
        config.write_text(TEXT)
        publish(master, facts_of(master))
        assert (master.directory / "names" / str(name_of("t", config))).exists()

    def test_many_writers(self, config: Path) -> None:
        """Any number may write at once, and the file is whole and true at each moment."""
        published = publish_name("t", config)
        threads = [threading.Thread(target=publish_name, args=("t", config)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert published.unchanged()
        for thread in threads:
            thread.join()
        assert published.unchanged()
        assert not [
            path
            for path in published.file.parent.iterdir()
            if path.name.startswith(f"{published.file.name}.")
        ]

    def test_two_names(self, config: Path) -> None:
        """Two names of one place share a master, and each has a file and a link of its own."""
        config.write_text(f"{TEXT.replace('Host t', 'Host t u')}")
        age(config)
        first, second = publish_name("t", config), publish_name("u", config)
        assert first.master.own_socket == second.master.own_socket
        assert first.file != second.file
        assert first.values()["ossh_path"] != second.values()["ossh_path"]
        assert first.unchanged()
        assert second.unchanged()
        withdraw_name(first.master)
        assert not first.file.exists()
        assert second.unchanged()

    def test_withdraw(self, config: Path) -> None:
        """What was written for a name goes with it, and may be gone already."""
        published = publish_name("t", config)
        withdraw_name(published.master)
        assert [path.name for path in published.file.parent.iterdir()] in ([], ["lock"])
        withdraw_name(published.master)

    @pytest.mark.parametrize(
        ("host", "config", "name"),
        [
            ("daint", None, "daint"),
            ("me@daint", None, "me@daint"),
            ("daint", Path("/a/b c"), "daint,a,b c"),
            ("ssh://daint", None, None),
            ("a,b", None, None),
            ("a/b", Path("/c"), None),
            ("x" * 200, None, "x" * 200),
            ("x" * 201, None, None),
            ("ü" * 101, None, None),
            ("x", Path("/" + "y" * 200), None),
        ],
    )
    def test_name(self, host: str, config: Path | None, name: str | None) -> None:
        """The file is named after the name and its configuration, where a file can be."""
        assert name_of(host, config) == name

    def test_no_name(self, config: Path) -> None:
        """For a name that no file can have nothing is written."""
        master = Master(resolve("ssh://t", config))
        publish(master, facts_of(master))
        assert not (master.directory / "names").exists() or not [
            path for path in (master.directory / "names").iterdir() if path.is_file() and path.name != "lock"
        ]


@pytest.fixture(scope="module")
def quiet(request: pytest.FixtureRequest, passable: Path) -> Iterator[Sandbox]:
    """A node whose user's start-up files say nothing."""
    require(missing_programs("ssh", "sshd", "ssh-keygen"))
    if missing_for_users():
        yield request.getfixturevalue("node")
        return
    with shell_node(passable, "dash") as (node, _):
        yield node


@pytest.mark.client
class TestLiveMaster:
    """Where the file leads, found by ssh."""

    def go(self, file: Path, command: str, *, ask: bool) -> subprocess.CompletedProcess[str]:
        """Run a command as `ossh-run` does it."""
        script = (
            '. "$1"; '
            + ("ossh_unchanged || exit 99; " if ask else "")
            + '"$ossh_ssh" -F "$ossh_config" -S "$ossh_path" $ossh_options -T -- "$ossh_host" "$2"'
        )
        return subprocess.run(
            ["/bin/sh", "-c", script, "sh", file, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def test_edit_that_hides(self, quiet: Sandbox, isolated: Path) -> None:
        """Even where an edit shows in no time of any file, no command goes to where the name led before."""
        config = isolated / "ssh_config"
        config.write_text(quiet.ssh_config.read_text())
        age(config)
        login.open_master(resolve(quiet.host, config), None)
        master = Master(resolve(quiet.host, config))
        file = master.directory / "names" / str(name_of(quiet.host, config))
        before = quiet.connections()
        assert self.go(file, "echo here", ask=True).stdout == "here\n"

        text, stamps = config.read_text(), config.stat()
        for old, new in (
            ("HostName 127.0.0.1", "HostName 127.0.0.2"),
            (f"User {quiet.user}", f"User {quiet.user[:-1]}_"),
            (f"Port {quiet.port}", f"Port {quiet.port - 1}"),
        ):
            assert old in text
            config.write_text(text.replace(old, new))
            os.utime(config, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
            gone = self.go(file, "echo here", ask=True)
            assert gone.returncode == 255, "the file itself cannot know"
            assert gone.stdout == ""
        config.write_text(text)
        os.utime(config, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
        assert self.go(file, "echo here", ask=True).stdout == "here\n"
        assert quiet.connections() == before

    def test_two_names_one_master(self, quiet: Sandbox, isolated: Path) -> None:
        """A second name of the place is taken up without a login, and both go through the same master."""
        config = isolated / "ssh_config"
        config.write_text(
            quiet.ssh_config.read_text().replace(f"Host {quiet.host}", f"Host {quiet.host} second")
        )
        age(config)
        for host in (quiet.host, "second"):
            before = quiet.connections()
            facts = login.open_master(resolve(host, config), None)
            assert quiet.connections() == before + (host == quiet.host)
            file = Path(facts.socket).parent / "names" / str(name_of(host, config))
            assert self.go(file, "echo here", ask=True).stdout == "here\n"
            assert quiet.connections() == before + (host == quiet.host)

    def test_master_gone(self, quiet: Sandbox, isolated: Path) -> None:
        """Where the master has ended, the way leads nowhere and nobody is dialled."""
        config = isolated / "ssh_config"
        config.write_text(quiet.ssh_config.read_text())
        destination = resolve(quiet.host, config)
        login.open_master(destination, None)
        master = Master(destination)
        file = master.directory / "names" / str(name_of(quiet.host, config))
        assert master.end()
        before = quiet.connections()
        assert self.go(file, "echo here", ask=False).returncode == 255
        assert quiet.connections() == before
