"""`local.settings`: config.toml, host patterns as ssh reads them, and the private directories."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opensshtransport.errors import SettingsError
from opensshtransport.local import settings
from opensshtransport.local.settings import (
    Settings,
    config_file,
    load,
    matches,
    parse_duration,
    private_directory,
    runtime_directory,
    state_directory,
)
from tests.conftest import MakeUser, require
from tests.support.nodes import missing_programs
from tests.support.users import User

_LONGEST = 2**31 - 1  # ssh's times are a C int


def ask_ssh(option: str, *arguments: str, host: str = "x", config: str = "") -> str:
    """What `ssh -G` says of an option, with a configuration of this one question."""
    require(missing_programs("ssh"))
    with tempfile.NamedTemporaryFile("w", prefix="oc", dir="/tmp") as file:
        file.write(config)
        file.flush()
        argv = ["ssh", "-F", file.name, *arguments, "-T", "-G", "--", host]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    (found,) = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith(f"{option} ")]
    return found


def ssh_matches(condition: str, host: str) -> bool:
    """Whether ssh finds that a `Host` or `Match` line holds."""
    return ask_ssh("hostname", host=host, config=f"{condition}\nHostName marker\n") == "marker"


class TestDuration:
    """Times, as OpenSSH writes them."""

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (0, 0),
            (90, 90),
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("10m", 600),
            ("1h30m", 5400),
            ("1H30M", 5400),
            ("2d", 172_800),
            ("1w", 604_800),
            ("1h30", 3630),
            ("1m1m", 120),
            ("1w2d3h4m5s", 788_645),
            ("007", 7),
        ],
    )
    def test_forms(self, value: object, seconds: int) -> None:
        """A number is seconds; a text may have units, in any case and more than once, which add up."""
        assert parse_duration(value, "here") == seconds

    @pytest.mark.parametrize(
        "value",
        [
            *("", " ", "s", "h1", "1 h", "1y", "-1", "1.5h", "1h ", "1h\n", "+1", "1e3", "none", "forever"),
            *(-1, 1.5, True, False, None, [], {}),
            # which some patterns would try in 2**60 ways, and Python would not turn into a number
            *("1" * 60 + " ", "1" * 5000),
            *(_LONGEST + 1, f"{_LONGEST + 1}", "3551w"),
        ],
    )
    def test_errors(self, value: object) -> None:
        """Anything else is refused, and the error names the place and the value."""
        with pytest.raises(SettingsError) as caught:
            parse_duration(value, 'config.toml: host."daint".persist')
        assert 'config.toml: host."daint".persist' in str(caught.value)
        assert repr(value) in str(caught.value)

    @hypothesis_settings(deadline=None)
    @given(st.integers(0, _LONGEST))
    def test_round_trip(self, seconds: int) -> None:
        """A time that is written in units is read as the same number of seconds."""
        minutes, left = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        weeks, days = divmod(days, 7)
        text = f"{weeks}w{days}d{hours}h{minutes}m{left}s"
        assert parse_duration(text, "here") == seconds
        assert parse_duration(str(seconds), "here") == parse_duration(seconds, "here") == seconds

    @hypothesis_settings(deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 500), st.sampled_from("smhdwSMHDW")),
            min_size=1,
            max_size=4,
        ),
        st.sampled_from(["", "7"]),
    )
    def test_as_ssh_reads_it(self, parts: list[tuple[int, str]], end: str) -> None:
        """ssh reads the same text as the same number of seconds."""
        text = "".join(f"{number}{unit}" for number, unit in parts) + end
        seconds = parse_duration(text, "here")
        assert seconds <= _LONGEST
        # ssh says `none` for 0 here
        assert ask_ssh("connecttimeout", f"-oConnectTimeout={text}").replace("none", "0") == str(seconds)


_NAMES = st.text("ab1.-", min_size=1, max_size=5).filter(lambda name: not name.startswith("-"))
_PATTERN = st.text("ab1.-*?", min_size=1, max_size=5)
_NEGATED = st.booleans().flatmap(lambda no: _PATTERN.map(lambda pattern: "!" * no + pattern))
_PATTERNS = st.lists(_NEGATED, min_size=1, max_size=4)


class TestMatches:
    """Patterns of hosts, as ssh reads them."""

    @pytest.mark.parametrize(
        ("host", "patterns", "expected"),
        [
            ("daint", "daint", True),
            ("daint", "dain", False),
            ("daint1", "daint", False),
            ("daint1", "daint*", True),
            ("daint", "daint*", True),
            ("daint", "daint?", False),
            ("a.cscs.ch", "*.cscs.ch", True),
            ("daint", "eiger daint", True),
            ("daint", "eiger,daint", True),
            ("daint", "eiger, \t daint ", True),
            ("daint", "* !daint", False),
            ("daint", "!daint *", False),
            ("eiger", "* !daint", True),
            ("eiger", "!daint", False),
            ("a[b]", "a[b]", True),
            ("ab", "a[b]", False),
            ("daint", "", False),
        ],
    )
    def test_table(self, host: str, patterns: str, expected: bool) -> None:
        """Lists, wildcards, negation, and brackets, which mean nothing in patterns."""
        assert matches(host, patterns) is expected

    @hypothesis_settings(deadline=None)
    @given(_NAMES, _PATTERNS)
    @example("a", ["!b"])
    @example("a", ["*", "!a"])
    def test_as_host_line(self, host: str, patterns: list[str]) -> None:
        """A list parted by blanks holds exactly where ssh's `Host` line holds."""
        config = f"Host {' '.join(patterns)}\nHostName marker\n"
        assert matches(host, " ".join(patterns)) is (
            ask_ssh("hostname", host=host, config=config) == "marker"
        )

    @hypothesis_settings(deadline=None)
    @given(_NAMES, _PATTERNS)
    def test_as_pattern_list(self, host: str, patterns: list[str]) -> None:
        """A list parted by commas holds exactly where ssh's `Match originalhost` holds."""
        config = f"Match originalhost {','.join(patterns)}\nHostName marker\n"
        assert matches(host, ",".join(patterns)) is (
            ask_ssh("hostname", host=host, config=config) == "marker"
        )

    @pytest.mark.parametrize(
        ("host", "pattern"),
        [
            ("daint", "Daint"),
            ("Daint", "daint"),
            ("Daint", "D*"),
            ("a", "* !!a"),
        ],
    )
    def test_odd_ones_as_host_line(self, host: str, pattern: str) -> None:
        """Capital letters and doubled marks mean what they mean to ssh."""
        assert matches(host, pattern) is ssh_matches(f"Host {pattern}", host)


@pytest.fixture
def toml(isolated: Path) -> Callable[[str], Path]:
    """Write the user's own config.toml and give its path."""

    def write(text: str) -> Path:
        config_file().parent.mkdir(parents=True, exist_ok=True)
        config_file().write_text(text)
        return config_file()

    return write


class TestLoad:
    """Settings of a destination."""

    def test_no_file(self) -> None:
        """Without a file everything has its default, and nothing is made."""
        assert load("daint") == Settings()
        assert not config_file().parent.exists()

    def test_file_is_in_the_users_configuration(self, isolated: Path) -> None:
        """The file lies in the user's configuration directory."""
        assert config_file() == isolated / "config" / "opensshtransport" / "config.toml"

    def test_every_setting(self, toml: Callable[[str], Path]) -> None:
        """Each setting is read, in its own form."""
        toml(
            '[host.daint]\nssh = "/opt/ssh"\nscp = "~/scp"\nsftp = "sftp"\npersist = "1h30m"\n'
            'server_alive_interval = 15\nserver_alive_count_max = 4\nconnect_timeout = "10s"\n'
            'check_timeout = 2.5\nlogin_timeout = "5m"\nmax_sessions = 3\nforwards = true\n'
        )
        assert load("daint") == Settings(
            ssh="/opt/ssh",
            scp=os.path.expanduser("~/scp"),  # noqa: PTH111  # a string, as in Settings
            sftp="sftp",
            persist=5400,
            server_alive_interval=15,
            server_alive_count_max=4,
            connect_timeout=10,
            check_timeout=2.5,
            login_timeout=300,
            max_sessions=3,
            forwards=True,
        )

    def test_first_match_wins(self, toml: Callable[[str], Path]) -> None:
        """For each key the first table decides that matches and has it, as in ssh_config."""
        toml(
            "[host.daint1]\npersist = 1\n\n"
            '[host."daint* !daint9"]\npersist = 2\nmax_sessions = 2\n\n'
            '[host."*"]\npersist = 3\nmax_sessions = 3\nconnect_timeout = 3\n'
        )

        def told(host: str) -> tuple[int, int, int]:
            found = load(host)
            return found.persist, found.max_sessions, found.connect_timeout

        assert told("daint1") == (1, 2, 3)
        assert told("daint2") == (2, 2, 3)
        assert told("daint9") == (3, 3, 3)
        assert told("eiger") == (3, 3, 3)

    def test_other_file(self, toml: Callable[[str], Path], isolated: Path) -> None:
        """A file that is named is read in place of the user's own."""
        toml("[host.daint]\npersist = 1\n")
        other = isolated / "other.toml"
        other.write_text("[host.daint]\npersist = 2\n")
        assert load("daint", other).persist == 2

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("ssh", "1"),
            ("ssh", '""'),
            ("scp", '["scp"]'),
            ("sftp", '"a\\u0000b"'),
            ("persist", '"soon"'),
            ("persist", "-1"),
            ("persist", "1.5"),
            ("persist", "true"),
            ("server_alive_interval", '"x"'),
            ("server_alive_count_max", "0"),
            ("server_alive_count_max", '"3"'),
            ("connect_timeout", "[]"),
            ("check_timeout", '"x"'),
            ("check_timeout", "-1.5"),
            ("check_timeout", "0.0"),
            ("check_timeout", "nan"),
            ("check_timeout", "inf"),
            ("check_timeout", "0"),
            ("persist", f'"{_LONGEST + 1}s"'),
            ("login_timeout", '""'),
            ("max_sessions", "0"),
            ("forwards", '"yes"'),
            ("max_sessions", "true"),
            ("max_sessions", "8.0"),
            ("colour", '"blue"'),
            ("HostName", '"daint.example.org"'),
            ("host", '"daint"'),
        ],
    )
    @pytest.mark.parametrize("host", ["daint", "eiger"])
    def test_wrong_key_or_value(self, toml: Callable[[str], Path], key: str, value: str, host: str) -> None:
        """A wrong key or value is an error for every host, named with its file and place."""
        file = toml(f'[host."*"]\npersist = 1\n\n[host.eiger]\n{key} = {value}\n')
        with pytest.raises(SettingsError) as caught:
            load(host)
        assert f'{file}: host."eiger".{key}' in str(caught.value)
        assert caught.value.advice

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("persist = 1\n", "unknown key 'persist'"),
            ("[hosts.daint]\n", "unknown key 'hosts'"),
            ("host = 3\n", "host is not a table"),
            ("[host]\ndaint = 3\n", "host is not a table"),
            ("[[host]]\nssh = 'ssh'\n", "host is not a table"),
            ("[host.daint\n", "cannot be read"),
            ("[host.daint]\nssh = ssh\n", "cannot be read"),
            ("[host.daint]\nssh = 'a'\nssh = 'b'\n", "cannot be read"),
            ("[host.daint.cscs]\nssh = 'a'\n", 'host."daint".cscs is not a setting'),
        ],
    )
    def test_wrong_file(self, toml: Callable[[str], Path], text: str, what: str) -> None:
        """A file of another shape, or that is no TOML, is an error that names the file."""
        file = toml(text)
        with pytest.raises(SettingsError) as caught:
            load("daint")
        assert f"{file}" in str(caught.value)
        assert what in str(caught.value)

    def test_unreadable(self, toml: Callable[[str], Path]) -> None:
        """A file that is no text, or no file, is an error that names it."""
        file = toml("")
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(SettingsError, match="cannot be read"):
            load("daint")
        file.unlink()
        file.mkdir()
        with pytest.raises(SettingsError, match="cannot be read"):
            load("daint")


def mode(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


class TestPrivateDirectory:
    """A directory that only its owner can enter."""

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
    def test_made(self, isolated: Path, umask: int) -> None:
        """It is made with its parents, and is 0700 whatever the umask."""
        (isolated / "parent").mkdir()
        before = os.umask(umask)
        try:
            made = private_directory(isolated / "parent" / "private")
        finally:
            os.umask(before)
        assert made == isolated / "parent" / "private"
        assert mode(made) == 0o700

    def test_parents(self, isolated: Path) -> None:
        """Parents that are missing are made too."""
        assert mode(private_directory(isolated / "one" / "two" / "three")) == 0o700

    @pytest.mark.parametrize("open_mode", [0o755, 0o777, 0o701, 0o000, 0o500, 0o1777])
    def test_repaired(self, isolated: Path, open_mode: int) -> None:
        """One of ours with other permissions gets the right ones; what lies in it stays."""
        path = isolated / "private"
        path.mkdir()
        (path / "file").touch()
        path.chmod(open_mode)
        assert private_directory(path) == path
        assert mode(path) == 0o700
        assert (path / "file").exists()

    def test_twice(self, isolated: Path) -> None:
        """A second call finds the same directory, and leaves it as it is."""
        first = private_directory(isolated / "private")
        (first / "file").touch()
        before = first.stat()
        assert private_directory(first).stat() == before

    @pytest.mark.parametrize("target", ["directory", "missing"])
    def test_link(self, isolated: Path, target: str) -> None:
        """A symbolic link is refused, wherever it leads, and its target left alone."""
        (isolated / "directory").mkdir(mode=0o755)
        (isolated / "private").symlink_to(isolated / target)
        with pytest.raises(SettingsError, match="is a symbolic link") as caught:
            private_directory(isolated / "private")
        assert str(isolated / "private") in str(caught.value)
        assert mode(isolated / "directory") == 0o755
        assert not (isolated / "missing").exists()

    def test_file(self, isolated: Path) -> None:
        """A file is refused."""
        (isolated / "private").write_text("mine")
        with pytest.raises(SettingsError, match="is not a directory"):
            private_directory(isolated / "private")
        assert (isolated / "private").read_text() == "mine"

    def test_of_somebody_else(self, isolated: Path, make_user: MakeUser) -> None:
        """A directory of another user is refused, though root could use it, and left alone."""
        user = make_user()
        path = isolated / "private"
        path.mkdir(mode=0o777)
        os.chown(path, user.uid, user.uid)
        path.chmod(0o755)
        with pytest.raises(SettingsError, match=f"belongs to user {user.uid}"):
            private_directory(path)
        assert mode(path) == 0o755

    def test_of_root(self, make_user: MakeUser) -> None:
        """To a plain user a directory of root is refused."""
        with acting_as(make_user()), pytest.raises(SettingsError, match="belongs to user 0"):
            private_directory(Path("/tmp"))


@contextlib.contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Let this process be another user for a while, as far as the system can tell."""
    groups, gid = os.getgroups(), os.getgid()
    os.setgroups([])
    os.setresgid(user.uid, user.uid, 0)
    os.setresuid(user.uid, user.uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(gid, gid, 0)
        os.setgroups(groups)


class TestStateDirectory:
    """Where logs and counts are."""

    def test_place(self, isolated: Path) -> None:
        """It lies in the user's state directory, and is private."""
        assert state_directory() == isolated / "state" / "opensshtransport"
        assert mode(state_directory()) == 0o700


@pytest.fixture
def someone(make_user: MakeUser) -> User:
    """A user of this test alone, so that what it makes below /run/user and /tmp is nobody else's."""
    user = make_user()
    # it imports what it needs when it is first asked, which that user perhaps could not
    platformdirs.user_runtime_dir("x")
    for place in (Path(f"/run/user/{user.uid}"), Path(f"/tmp/opensshtransport-{user.uid}")):
        if os.path.lexists(place):
            pytest.skip(f"{place} is there already")
    return user


@pytest.fixture
def run_user(someone: User) -> Iterator[Path]:
    """The user's /run/user/UID, as the system makes it at a login."""
    above = Path("/run/user")
    ours = not above.exists()
    if ours:
        above.mkdir(mode=0o755)
    path = above / str(someone.uid)
    path.mkdir(mode=0o700)
    os.chown(path, someone.uid, someone.uid)
    yield path
    for child in path.rglob("*"):
        child.rmdir()
    path.rmdir()
    if ours:
        above.rmdir()


@pytest.fixture
def in_tmp(someone: User) -> Iterator[Path]:
    """The place for the user's directory below /tmp, which is there only if the test makes it."""
    path = Path(f"/tmp/opensshtransport-{someone.uid}")
    yield path
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        path.rmdir()


def directory_of(user: User) -> Path:
    """The runtime directory as a user gets it."""
    with acting_as(user):
        return runtime_directory()


class TestRuntimeDirectory:
    """Where sockets and locks are."""

    def test_place(self, isolated: Path) -> None:
        """It lies in XDG_RUNTIME_DIR, is private, and gets repaired."""
        path = runtime_directory()
        assert path == isolated / "r" / "opensshtransport"
        assert mode(path) == 0o700
        path.chmod(0o755)
        assert mode(runtime_directory()) == 0o700

    def test_somebody_in_the_way(self, isolated: Path) -> None:
        """What is in its place is refused, and no other place is taken behind the person's back."""
        (isolated / "r" / "opensshtransport").symlink_to(isolated)
        with pytest.raises(SettingsError, match="is a symbolic link"):
            runtime_directory()

    def test_sockets_fit(self, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The longest directory that is taken still has room for the longest path in there, of 107 bytes."""
        longest = f"opensshtransport/names/0123456789ab.d/{'0' * 40}"
        long = isolated / ("x" * (107 - len(longest) - 1 - len(str(isolated)) - 1))
        long.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
        assert runtime_directory() == long / "opensshtransport"
        assert len(os.fsencode(long / longest)) == 107

    @pytest.fixture
    def _unfit(
        self, request: pytest.FixtureRequest, someone: User, isolated: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """XDG_RUNTIME_DIR is of no use, in the way that the parameter says."""
        isolated.chmod(0o711)
        values = {
            "unset": None,
            "empty": "",
            "missing": str(isolated / "missing"),
            "relative": "relative",
            "a file": str(isolated / "file"),
            "too long": str(isolated / ("x" * 60)),
            "too long in bytes": str(isolated / ("ü" * 30)),
            "not writable": str(isolated / "root's"),
            "somebody else's": str(isolated / "open"),
        }
        (isolated / "file").touch()
        (isolated / "root's").mkdir(mode=0o755)
        (isolated / "open").mkdir()
        (isolated / "open").chmod(0o777)
        for name in ("too long", "too long in bytes"):
            place = Path(str(values[name]))
            place.mkdir(mode=0o700)
            os.chown(place, someone.uid, someone.uid)
        value = values[request.param]
        if value is None:
            monkeypatch.delenv("XDG_RUNTIME_DIR")
        else:
            monkeypatch.setenv("XDG_RUNTIME_DIR", value)

    _each_unfit = pytest.mark.parametrize(
        "_unfit",
        [
            *("unset", "empty", "missing", "relative", "a file", "too long", "too long in bytes"),
            "not writable",
            pytest.param("somebody else's"),
        ],
        indirect=True,
    )

    @_each_unfit
    @pytest.mark.usefixtures("_unfit")
    def test_falls_back_to_run_user(self, someone: User, run_user: Path, in_tmp: Path) -> None:
        """Where XDG_RUNTIME_DIR is of no use, /run/user/UID is taken."""
        path = directory_of(someone)
        assert path == run_user / "opensshtransport"
        assert (mode(path), path.stat().st_uid) == (0o700, someone.uid)
        assert not in_tmp.exists()

    @_each_unfit
    @pytest.mark.usefixtures("_unfit")
    def test_falls_back_to_tmp(self, someone: User, in_tmp: Path) -> None:
        """Where there is no /run/user/UID either, a directory of the user's own below /tmp is taken."""
        path = directory_of(someone)
        assert path == in_tmp
        assert (mode(path), path.stat().st_uid) == (0o700, someone.uid)
        assert directory_of(someone) == path

    @pytest.mark.parametrize("_unfit", ["missing"], indirect=True)
    @pytest.mark.usefixtures("_unfit")
    @pytest.mark.parametrize("trap", ["directory", "link", "file"])
    def test_trap_in_tmp(self, someone: User, in_tmp: Path, trap: str) -> None:
        """Below /tmp anybody may have been faster: what is not the user's own directory is refused."""
        if trap == "directory":
            in_tmp.mkdir(mode=0o777)
        elif trap == "link":
            in_tmp.symlink_to("/tmp")
        else:
            in_tmp.touch()
        with pytest.raises(SettingsError, match=r"belongs to user 0|is a symbolic link|is not a directory"):
            directory_of(someone)

    def test_network_file_system(
        self, someone: User, run_user: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A directory on a file system of the unfit kinds is not taken; a mount point may have blanks."""
        isolated.chmod(0o711)
        mounted = isolated / "far away"
        mounted.mkdir()
        mount: list[str | Path] = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"mode=0700,uid={someone.uid}",
            "far",
            mounted,
        ]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(mounted))
        # no network file system is available, so another kind is used in its place; /run may be of that kind
        # too
        kind = settings._file_system(run_user)
        try:
            assert settings._file_system(mounted) == "tmpfs"
            assert directory_of(someone) == mounted / "opensshtransport"
            monkeypatch.setattr(settings, "NETWORK_FILE_SYSTEMS", {"tmpfs"})
            if kind != "tmpfs":
                assert directory_of(someone) == run_user / "opensshtransport"
            monkeypatch.setattr(settings, "NETWORK_FILE_SYSTEMS", {"nfs4"})
            assert directory_of(someone) == mounted / "opensshtransport"
        finally:
            subprocess.run(["umount", mounted], check=True)
