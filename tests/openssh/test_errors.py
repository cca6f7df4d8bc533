"""The tree of errors, and what ssh's own words mean (`openssh.diagnosis`).

The words are those of servers that really fail (`capture_stderr.py`), asked of the installed ssh now, and
kept in `tests/support/stderr`, by version.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opensshtransport import errors
from opensshtransport.errors import (
    CommandTimeout,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    HostKeyError,
    HostKeyUnknown,
    LoginNeeded,
    MasterGone,
    OpenSshTransportError,
    Remedy,
    SettingsError,
    TooManyFailures,
    Unreachable,
)
from opensshtransport.openssh.diagnosis import (
    classify,
    connection_error,
    log_error,
    logged_status,
    tells_cause,
)
from opensshtransport.sandbox import Sandbox
from tests.conftest import require
from tests.support.capture_stderr import (
    CASES,
    CLIENTS,
    STDERR,
    ImpossibleHereError,
    capture,
    kept,
    quiet_node,
)
from tests.support.evidence import EVIDENCE
from tests.support.nodes import missing_programs

# Each case's words by version; as parameters with their places in the files for names.
_KEPT = {name: kept(name) for name in CASES}
_WORDS = [
    pytest.param(name, text, id=f"{version}-{name}")
    for name, said in _KEPT.items()
    # one of the versions that say the same is enough
    for text, version in {text: version for version, text in said.items()}.items()
]


def _classes() -> dict[str, type[OpenSshTransportError]]:
    """The error classes of the module, by name."""
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, OpenSshTransportError)
    }


def _drawn() -> dict[str, tuple[str, ...]]:
    """The tree in the module's docstring: for each class the names of its bases."""
    bases: dict[str, tuple[str, ...]] = {}
    above: list[str] = []
    drawn = (errors.__doc__ or "").split("The tree::")[1].split("The trap")[0]
    for line in drawn.splitlines():
        match = re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)(\w+)(?: +\(([\w, ]+)\))?", line)
        if match:
            depth = len(match[1]) // 4
            bases[match[2]] = (*above[depth - 1 : depth], *(match[3] or "").replace(",", "").split())
            above[depth:] = [match[2]]
    return bases


@pytest.fixture(scope="module")
def quiet() -> Iterator[Sandbox]:
    """A node whose user's start-up files say nothing."""
    require(missing_programs("ssh", "sshd", "ssh-keygen"))
    with quiet_node() as node:
        yield node


class TestTree:
    """The classes and their places."""

    def test_is_as_drawn(self) -> None:
        """The tree in the docstring is the tree of the classes, no branch more or less."""
        real = {
            name: tuple(base.__name__ for base in kind.__bases__ if base is not Exception)
            for name, kind in _classes().items()
        }
        assert _drawn() == real
        assert len(real) > 15

    def test_all_is_complete(self) -> None:
        """`__all__` names each public class and function of the module, in order."""
        public = {
            name
            for name, value in vars(errors).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == errors.__name__
        }
        assert set(errors.__all__) == public
        assert errors.__all__ == sorted(errors.__all__)

    @pytest.mark.parametrize(
        ("kind", "standard"),
        [
            (SettingsError, ValueError),
            (CommandTimeout, TimeoutError),
            (ConnectionFailed, OSError),
            *((kind, OSError) for kind in _classes().values() if issubclass(kind, ConnectionFailed)),
        ],
    )
    def test_standard_bases(self, kind: type[OpenSshTransportError], standard: type[Exception]) -> None:
        """Who catches Python's own error of that kind catches ours."""
        with pytest.raises(standard):
            raise kind("gone")


class TestError:
    """What an error carries, and how it reads."""

    @hypothesis_settings(deadline=None)
    @given(
        kind=st.sampled_from(sorted(_classes().values(), key=lambda kind: kind.__name__)),
        host=st.none() | st.from_regex(r"[a-z{}%]+", fullmatch=True),
        message=st.from_regex(r"[ -~]+", fullmatch=True),
        advice=st.none() | st.from_regex(r"[ -~]*", fullmatch=True),
    )
    def test_text(
        self, kind: type[OpenSshTransportError], host: str | None, message: str, advice: str | None
    ) -> None:
        """The text is one line: where, what, and what to do."""
        error = kind(message, host=host, advice=advice)
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith(f"{host}: {message}" if host else message)
        assert str(error).endswith(error.advice)
        if advice is not None:
            assert error.advice == advice
        else:
            default = kind.advice_by_default
            command = f"{default.command} {shlex.quote(host) if host else 'HOST'}" if default.command else ""
            assert error.advice == default.words + command

    @pytest.mark.parametrize("kind", _classes().values())
    @pytest.mark.parametrize(
        "twin",
        [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy],  # noqa: S301  # our own
        ids=["pickle", "copy", "deepcopy"],
    )
    def test_pickle(
        self,
        kind: type[OpenSshTransportError],
        twin: Callable[[OpenSshTransportError], OpenSshTransportError],
    ) -> None:
        """An error passes through pickle and copy with all that it carries, as between processes."""
        error = kind(
            "gone", host="daint", advice="wait", argv=["ssh", "daint"], returncode=255, stderr="a\nb\n"
        )
        if isinstance(error, ConnectionFailed):
            error.started = True
        same = twin(error)
        assert type(same) is kind
        assert vars(same) == vars(error)
        assert (str(same), same.args) == (str(error), error.args)
        assert (same.argv, same.returncode, same.stderr) == (("ssh", "daint"), 255, "a\nb")

    def test_started(self) -> None:
        """Only an error of a lost connection leaves open whether the command had started."""
        assert ConnectionLost("gone").started is None
        assert ConnectionLost("gone", started=True).started is True
        others = [kind for kind in _classes().values() if issubclass(kind, ConnectionFailed)]
        assert {kind("gone").started for kind in others if kind is not ConnectionLost} == {False}

    def test_stderr_is_the_tail(self) -> None:
        """Of a long log the last lines are kept."""
        error = ConnectionFailed("gone", stderr="".join(f"{number}\r\n" for number in range(100)))
        assert error.stderr.splitlines() == [str(number) for number in range(88, 100)]

    @pytest.mark.parametrize("kind", _classes().values())
    def test_advice_is_a_clause(self, kind: type[OpenSshTransportError]) -> None:
        """What a class advises is a clause without a final stop, with the host in its command."""
        advice = kind("gone", host="daint").advice
        assert not advice.endswith(".")
        assert "ossh login" not in advice or "ossh login daint" in advice

    def test_advice_names_the_configuration(self) -> None:
        """The command that is advised takes the same ssh_config, as one word; other words stay."""
        error = LoginNeeded("gone", host="daint")
        assert error.remedy.clause("daint", "/a b/config") == "run: ossh login -F '/a b/config' daint"
        assert str(error) == "daint: gone; run: ossh login daint"
        assert Remedy("run: ", "ossh-run", "squeue").clause("daint") == "run: ossh-run daint squeue"
        assert Remedy("not by ossh login daint").clause("daint", "/config") == "not by ossh login daint"


class TestClassify:
    """Ssh's own words, as really said."""

    @pytest.mark.parametrize("name", CASES)
    @pytest.mark.client
    def test_now(self, quiet: Sandbox, name: str) -> None:
        """What the installed ssh says of a failure that is brought about now means the right error."""
        try:
            text = capture(name, quiet)
        except ImpossibleHereError as reason:
            pytest.skip(str(reason))
        assert classify(text, 255) in CASES[name].errors, text

    @pytest.mark.parametrize(("name", "text"), _WORDS)
    def test_kept(self, name: str, text: str) -> None:
        """What ssh said by version means the same, also without its carriage returns and in one piece."""
        (found,) = {
            classify(text, 255),
            classify(text, None),
            classify(text.replace("\r", ""), 255),
        }
        assert found in CASES[name].errors

    def test_each_case_is_kept(self) -> None:
        """Of each case the words of all versions are kept, and none of a case that there is not."""
        assert {path.stem for path in STDERR.glob("*.txt")} == set(CASES)
        versions = {"7.4p1", "8.0p1", "8.7p1", "8.9p1", "9.2p1", "9.6p1", "9.9p2", "10.5p1"}
        assert all(versions <= set(said) for said in _KEPT.values())

    def test_names_that_old_versions_take(self) -> None:
        """Before 9.6, ssh looks up a name that no host can have; the error reports the result."""
        taken = {version: classify(text, 255) for version, text in _KEPT["bad-name"].items()}
        assert (taken["8.9p1"], taken["9.6p1"]) == (Unreachable, ConfigurationError)

    @pytest.mark.parametrize(
        # a file's name, which may be anything, precedes some of the configuration's errors
        "name",
        [name for name, case in CASES.items() if ConfigurationError not in case.errors],
    )
    def test_anchored(self, name: str) -> None:
        """Words within a line are somebody else's and tell nothing."""
        for said in _KEPT[name].values():
            quoted = "".join(f"they say {line}" for line in said.splitlines(keepends=True))
            assert classify(quoted, 255) is None
            assert classify(said, 255) is not None

    @pytest.mark.parametrize("status", [0, 1, 127, 254])
    def test_other_status(self, status: int) -> None:
        """Any status but 255 is the remote command's, whatever is in the text."""
        text = "ssh: connect to host daint port 22: Connection refused\r\n"
        assert classify(text, 255) is Unreachable
        assert classify(text, status) is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "\r\n",
            "Warning: Permanently added 'daint' (ED25519) to the list of known hosts.\r\n",
            "** WARNING: connection is not using a post-quantum key exchange algorithm.\r\n",
            "debug1: Authentications that can continue: publickey\r\n",
        ],
    )
    def test_words_without_a_meaning(self, text: str) -> None:
        """Silence, warnings and notes tell no error."""
        assert classify(text, 255) is None

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            # the master was asked: whether the command has started is not known
            ("mux_client_request_session: unexpected response from master 0x80000001", ConnectionLost),
            ("mux_client_request_session: write packet: Broken pipe", ConnectionLost),
            ("mux_client_request_session: master alive request failed", MasterGone),
            ("mux_client_hello_exchange: write packet: Broken pipe", MasterGone),
            ("muxclient: master hello exchange failed", MasterGone),
            # not that the master is gone
            ("muxclient: master forward request failed", None),
            ("Certificate invalid: expired\r\nHost key verification failed.", HostKeyError),
            ("host key ssh-rsa not permitted by HostkeyAlgorithms", HostKeyError),
            ("Received disconnect from 192.0.2.1 port 22:11: Maintenance", Unreachable),
            (
                "Received disconnect from 192.0.2.1 port 22:2: Too many authentication failures",
                TooManyFailures,
            ),
            ("Something that no release has said yet", None),
        ],
    )
    def test_words_of_the_source(self, text: str, error: type[ConnectionFailed] | None) -> None:
        """What is in OpenSSH's source and is hard to bring about."""
        assert classify(f"{text}\r\n", 255) is error


class TestConnectionError:
    """The error that is built from ssh's words."""

    @pytest.mark.parametrize("text", [pytest.param(words.values[1], id=words.id) for words in _WORDS])
    def test_kept(self, text: str) -> None:
        """It has the class that the words mean, ssh's decisive line within one line of text, and the tail."""
        error = connection_error(text, host="daint", argv=["ssh", "daint"])
        assert type(error) is (classify(text, 255) or ConnectionFailed)
        assert (error.host, error.argv, error.returncode) == ("daint", ("ssh", "daint"), 255)
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith("daint: ")
        quoted = re.search(r"\(ssh said: (.*)\)$", error.message) or re.search(
            r"^ssh failed: (.*)$", error.message
        )
        assert quoted
        assert quoted[1]
        assert quoted[1] in text
        assert error.stderr.splitlines()[-1] == text.strip().splitlines()[-1]

    def test_otherwise(self) -> None:
        """Where the words tell nothing, the caller says what it means; the last line is quoted."""
        error = connection_error("one\r\n\r\ntwo \r\n\r\n", host="daint", otherwise=MasterGone)
        assert type(error) is MasterGone
        assert str(error) == "daint: ssh failed: two; run: ossh login daint"
        assert type(connection_error("", host="daint")) is ConnectionFailed
        assert "no reason (status 255)" in str(connection_error("", host="daint"))

    def test_cause_before_consequence(self) -> None:
        """If several lines mean something, the cause decides, in whatever order they are."""
        cause = "Host key verification failed.\r\n"
        consequence = "kex_exchange_identification: Connection closed by remote host\r\n"
        for text in (cause + consequence, consequence + cause):
            error = connection_error(text, host="daint")
            assert type(error) is HostKeyUnknown
            assert "Host key verification failed" in error.message

    def test_login_needed_is_never_guessed(self) -> None:
        """No words of ssh mean that a person is needed: only the caller knows whether one is there."""
        assert all(LoginNeeded not in case.errors for case in CASES.values())


class TestLogError:
    """What it means that ssh ended without the command's status."""

    @pytest.mark.parametrize("name", EVIDENCE)
    def test_evidence(self, name: str) -> None:
        """Only what ssh says outright counts: a status, a refusal, or that it has asked nobody."""
        case = EVIDENCE[name]
        assert logged_status(case.log) == case.status
        if case.error is not None:
            error = log_error(case.log, "daint")
            assert type(error) is case.error
            assert error.started is case.started

    @pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh", "zsh --emulate sh"])
    def test_evidence_in_sh(self, shell: str) -> None:
        """`ossh-run` takes the same logs for a status, and no other."""
        require(missing_programs(shell.split(maxsplit=1)[0]))
        script = (Path(__file__).parents[2] / "scripts" / "ossh-run").read_text()
        (function,) = re.findall(r"^read_status\(\) \{\n.*?^\}\n", script, re.MULTILINE | re.DOTALL)
        for name, case in EVIDENCE.items():
            argv = [*shell.split(), "-c", f'{function}read_status; echo "$? $status"']
            done = subprocess.run(argv, input=case.log.encode(), capture_output=True, check=True)
            expected = "1 " if case.status is None else f"0 {case.status}"
            assert done.stdout.decode() == f"{expected}\n", name

    @pytest.mark.parametrize("version", _KEPT["lost-while-starting"])
    def test_wherever_it_ends(self, version: str) -> None:
        """A log that ends anywhere, or lacks any line, proves nothing where the master was asked."""
        lines = _KEPT["lost-while-starting"][version].splitlines(keepends=True)
        for number in range(len(lines) + 1):
            for log in (lines[:number], lines[number:], lines[:number] + lines[number + 1 :]):
                error = log_error("".join(log), "daint")
                assert type(error) is ConnectionLost, log
                assert error.started is None

    @pytest.mark.parametrize("name", [name for name in _KEPT if name.startswith("guarded-log-")])
    def test_nobody_was_asked(self, name: str) -> None:
        """What ssh writes where no master listens is proof in each version."""
        for version, text in _KEPT[name].items():
            assert type(log_error(text, "daint")) is MasterGone, version

    @pytest.mark.parametrize("version", kept("mux-log-kill9PP", CLIENTS))
    def test_cut_while_it_ran(self, version: str) -> None:
        """Where the server's process is killed, the command had started, though 8.0 notes less."""
        error = log_error(kept("mux-log-kill9PP", CLIENTS)[version], "daint")
        assert isinstance(error, ConnectionLost)
        assert error.started is True
        assert error.message == "the connection was lost while the command was running"

    @pytest.mark.parametrize("version", kept("mux-log-exit3", CLIENTS))
    def test_status(self, version: str) -> None:
        """A command's own status is noted by all versions, and none where a signal has ended it."""
        assert logged_status(kept("mux-log-exit3", CLIENTS)[version]) == 3
        assert logged_status(kept("mux-log-kill9PP", CLIENTS)[version]) is None


class TestTellsCause:
    """Whether ssh's words say more than that the connection has ended."""

    ENDED = ("closed-before-banner", "reset-in-key-exchange", "proxy-command-fails")
    CAUSES = (
        "jump-refused",
        "jump-name-unknown",
        "jump-publickey-refused",
        "target-refused-behind-jump",
        "refused",
    )

    @pytest.mark.parametrize("name", ENDED + CAUSES)
    def test_kept(self, name: str) -> None:
        """All versions tell the same, in however many words."""
        assert {tells_cause(text) for text in _KEPT[name].values()} == {name in self.CAUSES}

    def test_words_of_the_guard(self) -> None:
        """The end of a connection is no cause, whatever ssh calls it."""
        assert not tells_cause("banner exchange: Connection to UNKNOWN port 65535: Broken pipe\r\n")
        assert not tells_cause("")
