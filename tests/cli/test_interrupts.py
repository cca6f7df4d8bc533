"""Ctrl-C ends every command as a signal ends any program, from its first moment on."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pexpect
import pytest

from opensshtransport.sandbox import Sandbox
from tests.support.nodes import config_through
from tests.support.programs import OSSH, ossh, until
from tests.support.relay import Relay

COMMANDS = (
    ("status",),
    ("cp", "nowhere:a", "b"),
    ("doctor", "nowhere"),
    ("sync", "nowhere:a", "b"),
    ("logout", "--all"),
    ("complete", "--", "ossh", "log"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("after", [0.0, 0.03, 0.1, 0.2, 0.3])
def test_from_the_first_moment(words: tuple[str, ...], after: float) -> None:
    """However early Ctrl-C comes, no traceback is shown, and the status is the signal's or the command's."""
    process = subprocess.Popen(
        [OSSH, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # tells each module that is loaded; before ours begin there is only Python itself
        env={**os.environ, "PYTHONVERBOSE": "1"},
    )
    with process:
        assert process.stderr is not None
        begun = re.compile(r"^import 'opensshtransport\.cli\.start'|cli/(?:__pycache__/)?main\.")
        assert any(begun.search(line) for line in process.stderr)
        select.select([], [], [], after)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert "Traceback" not in out + err
    assert "KeyboardInterrupt" not in out + err
    assert process.returncode in {-signal.SIGINT, 0, 1, 2, 255}
    assert after > 0 or process.returncode == -signal.SIGINT


def test_ignored_where_it_was_ignored() -> None:
    """A program started with SIGINT ignored, as by `&` in a script, goes on."""
    command = f"trap '' INT; exec {OSSH} status"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        program = Path(f"/proc/{process.pid}/cmdline")
        # at first it is empty, then that of sh
        until(lambda: b"python" in program.read_bytes().split(b"\0")[0], "sh to become the program")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"no masters; run: ossh login HOST\n")


def test_a_loop_ends(isolated: Path) -> None:
    """In `for h in …; do ossh login $h; done` Ctrl-C ends the loop, as with any program."""
    with Sandbox(second_factor="passphrase") as node:
        loop = f"for n in 1 2 3; do echo turn-$n; {OSSH} login -F {node.ssh_config} {node.host}; done"
        script = isolated / "loop"
        script.write_text(loop)
        child: pexpect.spawn[str] = pexpect.spawn("bash", [str(script)], timeout=30, encoding="utf-8")
        child.expect("turn-1")
        child.expect("Enter passphrase for key .*: ")
        child.sendintr()
        child.expect(pexpect.EOF)
        child.close()
    assert child.signalstatus == signal.SIGINT
    assert "turn-2" not in str(child.before)


def test_in_python(isolated: Path) -> None:
    """A program that needs a login gets KeyboardInterrupt from a Ctrl-C at the prompt."""
    program = (
        "import sys\nfrom opensshtransport import Transport\n"
        "try:\n    Transport('sandbox', ssh_config=sys.argv[1]).run('true')\n"
        "except KeyboardInterrupt:\n    print('interrupted by the person')\n"
    )
    with Sandbox(second_factor="passphrase") as node:
        child: pexpect.spawn[str] = pexpect.spawn(
            sys.executable, ["-c", program, str(node.ssh_config)], timeout=30, encoding="utf-8"
        )
        child.expect("Enter passphrase for key .*: ")
        child.sendintr()
        child.expect("interrupted by the person")
        child.expect(pexpect.EOF)
        child.close()
    assert child.exitstatus == 0
    assert "Traceback" not in str(child.before)


def test_while_the_network_is_silent(own_node: Sandbox) -> None:
    """Ctrl-C while masters are asked, and nobody answers, ends `ossh status` soon, without a word."""
    with Relay(own_node.port) as relay:
        config = config_through(own_node, relay)
        ossh("login", "-F", config, own_node.host)
        relay.silence()
        child: pexpect.spawn[str] = pexpect.spawn(
            str(OSSH), ["status", "-F", str(config)], timeout=8, encoding="utf-8"
        )
        until(lambda: "-W" in _descendants(child.pid or 0), "the master to be asked")
        child.sendintr()
        child.expect(pexpect.EOF)
        child.close()
    assert child.signalstatus == signal.SIGINT
    assert "Traceback" not in str(child.before)


def _descendants(pid: int) -> str:
    shown = subprocess.run(
        ["ps", "-A", "-ww", "-o", "ppid=,args="], capture_output=True, text=True, check=True
    )
    return "\n".join(line for line in shown.stdout.splitlines() if line.split()[:1] == [str(pid)])


def test_within_a_callback() -> None:
    """An interrupt that comes in a callback of Python's ends the program too, and is not shown."""
    program = """
        import signal, time, weakref
        from opensshtransport.cli import main, start

        class Thing:
            pass

        def command():
            thing = Thing()
            known = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
            del thing
            time.sleep(20)
            return 0

        main.main = command
        start.main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False, timeout=15
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
