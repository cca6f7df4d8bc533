"""The authentication script of the settings: when it runs, who answers it, and what its failures say."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import shlex
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pexpect
import pytest

from opensshtransport.sandbox import Sandbox
from tests.support.authority import AuthorityNode
from tests.support.programs import OSSH, ossh, ossh_run, runtime, status, until, write_settings


def settings(node: Sandbox, script: str | Path, more: str = "", rules: str = "") -> None:
    """Write settings by which a script runs before the logins to a node."""
    write_settings(f'[host.{node.host}]\nauthentication_script = "{script}"\n{more}\n{rules}')


def rules_for(node: AuthorityNode, code: str = "") -> str:
    """Rules that answer the authority's script; without a code they leave that to a person."""
    stored = {"password": node.password, "code": code}
    for name, text in stored.items():
        (node.directory / f"stored_{name}").write_text(f"{text}\n")
    rules = [("Username", f'{{ text = "{node.name}" }}')]
    rules += [
        (prompt, f'{{ command = ["cat", "{node.directory}/stored_{name}"] }}')
        for prompt, name in (("Password", "password"), ("OTP", "code"))
        if stored[name]
    ]
    return "".join(
        f'[[host.{node.host}.prompts]]\nexpect = "{expect}"\nanswer = {answer}\n' for expect, answer in rules
    )


def write_script(directory: Path, text: str) -> Path:
    """An executable script of its own for the test."""
    path = directory / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def certify(
    node: AuthorityNode, validity: str, name: str = "id_ed25519", *, principal: str | None = None
) -> Path:
    """Make a certificate by the node's authority, with a validity as ssh-keygen(1) writes it."""
    key = node.directory / name
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    words = ["-I", "test", "-n", principal or node.user, "-V", validity]
    subprocess.run(["ssh-keygen", "-q", "-s", node.directory / "ca", *words, f"{key}.pub"], check=True)
    return key.with_name(f"{name}-cert.pub")


def report(node: Sandbox, **variables: str) -> dict[str, Any]:
    """Log in where nobody is; the error as a value."""
    done = ossh("login", "--report", "-F", node.ssh_config, node.host, env=variables)
    assert done.returncode == 255, done.stdout
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def log_in(node: Sandbox) -> None:
    """Log in where nobody is; that works."""
    done = ossh("login", "-F", node.ssh_config, node.host)
    assert done.returncode == 0, done.stderr.decode()


def log_out(node: Sandbox) -> None:
    """End the master."""
    assert ossh("logout", "-F", node.ssh_config, node.host).returncode == 0


def terminal(node: Sandbox) -> pexpect.spawn[str]:
    """`ossh login` at a pseudo-terminal."""
    return pexpect.spawn(
        str(OSSH), ["login", "-F", str(node.ssh_config), node.host], timeout=30, encoding="utf-8"
    )


def end(child: pexpect.spawn[str]) -> int | None:
    """Wait for the end of what runs at a terminal; its exit status."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def processes(text: str) -> list[str]:
    """The command lines of all processes that have a text in theirs."""
    done = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if text in line]


def new_tag() -> str:
    """A command that waits long, and that no other test has."""
    return f"sleep 1{secrets.randbelow(10**8):08d}"


def kill(tag: str) -> None:
    """End the processes of a tag, whatever they ignore."""
    subprocess.run(["pkill", "-KILL", "-x", "-f", tag], check=False)


class TestWhen:
    """The script runs before a login that needs it, and never else."""

    def test_before_a_login_only(self, authority_node: AuthorityNode) -> None:
        """Rules answer all three questions; no command on the live master, and no question, runs it again."""
        node = authority_node
        settings(node, node.script, 'min_validity = "30m"', rules_for(node, node.new_code()))
        config, host = node.ssh_config, node.host
        assert status(config, host)[0]["state"] == "none"
        assert ossh_run("-F", config, "--no-login", host, "true").returncode == 255
        assert ossh("ssh-command", "-F", config, host).returncode == 0
        assert node.runs() == 0
        done = ossh_run("-F", config, host, "echo x")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
        assert node.runs() == 1
        assert ossh_run("-F", config, "--timeout", "30", host, "echo x").stdout == b"x\n"
        log_in(node)
        assert (node.runs(), node.authentications(), node.connections()) == (1, 1, 1)

    def test_eight_at_once(self, authority_node: AuthorityNode) -> None:
        """Eight starters: one runs the script, by the only code, though its certificate is too short."""
        node = authority_node
        settings(node, node.script, 'min_validity = "2h"', rules_for(node, node.new_code()))
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(
                    lambda number: ossh_run("-F", node.ssh_config, node.host, f"echo {number}"), range(8)
                )
            )
        assert [done.stdout for done in answers] == [b"%d\n" % number for number in range(8)]
        assert (node.runs(), node.authentications()) == (1, 1)

    def test_while_the_certificate_lives(self, authority_node: AuthorityNode) -> None:
        """Skipped while the certificate is valid for longer than `min_validity`, and runs again when not."""
        node = authority_node
        settings(node, node.script, 'min_validity = "30m"', rules_for(node, node.new_code()))
        log_in(node)
        log_out(node)
        log_in(node)
        log_out(node)
        assert (node.runs(), node.authentications()) == (1, 2)
        certify(node, "+29m")
        settings(node, node.script, 'min_validity = "30m"', rules_for(node, node.new_code()))
        log_in(node)
        assert (node.runs(), node.authentications()) == (2, 3)
        log_out(node)
        log_in(node)
        assert (node.runs(), node.authentications()) == (2, 4)

    def test_of_several_certificates_the_living_one_counts(
        self, authority_node: AuthorityNode, isolated: Path
    ) -> None:
        """An expired certificate next to a valid one does not run the script; alone it does."""
        node = authority_node
        certify(node, "-2h:-1h")
        living = certify(node, "+2h", "second")
        config = isolated / "ssh_config"
        config.write_text(f"{node.ssh_config.read_text()}IdentityFile {node.directory}/second\n")
        script = write_script(isolated, f"echo run >>{isolated}/runs; exit 3")
        settings(node, script)
        done = ossh("login", "-F", config, node.host)
        assert done.returncode == 0, done.stderr.decode()
        assert not (isolated / "runs").exists()
        ossh("logout", "-F", config, node.host)
        living.unlink()
        done = ossh("login", "-F", config, node.host)
        assert b"failed with status 3" in done.stderr
        assert (isolated / "runs").read_text() == "run\n"

    def test_certificate_file_counts(self, authority_node: AuthorityNode, isolated: Path) -> None:
        """A certificate in a place of its own is known by CertificateFile; one without end is enough."""
        node = authority_node
        place = certify(node, "always:forever").rename(isolated / "elsewhere")
        config = isolated / "ssh_config"
        config.write_text(f"{node.ssh_config.read_text()}CertificateFile {place}\n")
        settings(node, write_script(isolated, "exit 3"))
        done = ossh("login", "-F", config, node.host)
        assert done.returncode == 0, done.stderr.decode()


class TestQuestions:
    """Who answers the script."""

    def test_a_person(self, authority_node: AuthorityNode) -> None:
        """A person types all answers; the password and the code are not shown."""
        node = authority_node
        settings(node, node.script)
        code = node.new_code()
        child = terminal(node)
        shown = ""
        for prompt, answer in (("Username: ", node.name), ("Password: ", node.password), (r"OTP.*: ", code)):
            child.expect(prompt)
            shown += child.before or ""
            child.sendline(answer)
        child.expect("A certificate for 3600 seconds is in place.")
        shown += child.before or ""
        assert end(child) == 0
        assert node.name in shown
        assert node.password not in shown
        assert code not in shown
        assert (node.runs(), node.authentications()) == (1, 1)

    def test_rules_first_then_the_person(self, authority_node: AuthorityNode) -> None:
        """What the settings know is not asked; only the code is."""
        node = authority_node
        settings(node, node.script, rules=rules_for(node))
        child = terminal(node)
        child.expect(r"Enter OTP \(6-digit code\): ")
        child.sendline(node.new_code())
        child.expect("is in place")
        assert end(child) == 0

    def test_nobody(self, authority_node: AuthorityNode) -> None:
        """A question without a rule and a person ends the script: the error quotes it, ssh is not tried."""
        node = authority_node
        settings(node, node.script)
        error = report(node)
        assert error["error"] == "UnexpectedPrompt"
        assert "no rule answers the prompt 'Username:'" in error["message"]
        assert node.connections() == 0
        until(lambda: not processes(node.script), "the script to end")

    def test_nobody_for_the_last_question(self, authority_node: AuthorityNode) -> None:
        """Also after two answers by rules; the secrets are in no part of the error."""
        node = authority_node
        settings(node, node.script, rules=rules_for(node))
        error = report(node)
        assert error["error"] == "UnexpectedPrompt"
        assert "no rule answers the prompt 'Enter OTP (6-digit code):'" in error["message"]
        assert node.password not in json.dumps(error)
        assert node.connections() == 0

    def test_a_browser_login(self, own_node: Sandbox, isolated: Path) -> None:
        """A script that shows an address and waits, as for a browser, is shown to the person."""
        answered = isolated / "answered"
        script = write_script(
            isolated,
            "echo 'Open https://login.example.org/device?code=ABCD in your browser'\n"
            f"while [ ! -e {answered} ]; do sleep 0.1; done\n"
            "echo 'Welcome, Jane'",
        )
        settings(own_node, script)
        child = terminal(own_node)
        child.expect_exact("https://login.example.org/device?code=ABCD")
        assert own_node.connections() == 0
        answered.touch()
        child.expect_exact("Welcome, Jane")
        assert end(child) == 0
        assert own_node.authentications() == 1

    def test_it_may_wait_without_a_person(self, own_node: Sandbox, isolated: Path) -> None:
        """Messages and silence are no question: a script that takes its time is waited for."""
        script = write_script(isolated, "echo 'https://login.example.org'; sleep 1; echo done")
        settings(own_node, script)
        log_in(own_node)

    def test_a_line_that_goes_on_is_no_question(self, own_node: Sandbox, isolated: Path) -> None:
        """The beginning of a message, and a pause before its end, do not end a login that asks nothing."""
        text = (
            "printf 'Fetching keys...'; sleep 2; echo ' done'; printf 'Contacting'; sleep 2; echo ' centre'"
        )
        settings(own_node, write_script(isolated, text))
        log_in(own_node)

    def test_a_line_that_goes_on_gets_no_secret(self, own_node: Sandbox, isolated: Path) -> None:
        """A rule waits for the question, though its word is in a message before."""
        (isolated / "stored").write_text("right\n")
        text = (
            "printf 'Asking for your password'; sleep 1; echo; read -r -t 0 && exit 4\n"
            "printf 'Password: '; read -rs given; test \"$given\" = right"
        )
        script = write_script(isolated, text)
        script.write_text(script.read_text().replace("#!/bin/sh", "#!/bin/bash"))
        answer = f'{{ command = ["cat", "{isolated}/stored"] }}'
        rule = f'[[host.{own_node.host}.prompts]]\nexpect = "(?i)password"\nanswer = {answer}\n'
        settings(own_node, script, rules=rule)
        log_in(own_node)

    def test_a_question_in_a_whole_line(self, own_node: Sandbox, isolated: Path) -> None:
        """A secret that is asked for in a line of its own is answered by its rule, or said not to be."""
        text = "echo 'Enter the word'; read -rs given; test \"$given\" = blue"
        script = write_script(isolated, text)
        script.write_text(script.read_text().replace("#!/bin/sh", "#!/bin/bash"))
        rule = f'[[host.{own_node.host}.prompts]]\nexpect = "word"\nanswer = {{ text = "blue" }}\n'
        settings(own_node, script, rules=rule)
        log_in(own_node)
        log_out(own_node)
        settings(own_node, script)
        begin = time.monotonic()
        error = report(own_node)
        assert time.monotonic() - begin < 8
        assert "no rule answers the prompt 'Enter the word'" in error["message"]

    def test_a_shown_question_in_a_whole_line(self, own_node: Sandbox, isolated: Path) -> None:
        """Where what is typed is shown, as with `echo` and `read`, the rule of such a question answers too.

        A heading that merely looks like one gets nothing, and ends nothing.
        """
        text = (
            "echo 'These colours are there:'; sleep 11; echo red\n"
            "echo 'Enter the colour:'; read -r given; test \"$given\" = blue"
        )
        rule = f'[[host.{own_node.host}.prompts]]\nexpect = "colour:"\nanswer = {{ text = "blue" }}\n'
        settings(own_node, write_script(isolated, text), rules=rule)
        log_in(own_node)

    def test_a_shown_question_that_comes_again(self, own_node: Sandbox, isolated: Path) -> None:
        """Asked again, it was not taken; without a rule the error of the deadline quotes it."""
        script = write_script(isolated, "while echo 'Enter the colour:'; do read -r given; done")
        rule = f'[[host.{own_node.host}.prompts]]\nexpect = "colour"\nanswer = {{ text = "blue" }}\n'
        settings(own_node, script, rules=rule)
        error = report(own_node)
        assert error["error"] == "AuthenticationRefused"
        assert "the answer to 'Enter the colour:' was not accepted" in error["message"]
        (isolated / "other").mkdir()
        settings(own_node, script, "script_timeout = 2")
        error = report(own_node, XDG_STATE_HOME=str(isolated / "other"))
        assert "did not finish in time (last output: 'Enter the colour:')" in error["message"]

    def test_a_question_without_its_looks(self, own_node: Sandbox, isolated: Path) -> None:
        """A question without a colon is answered by its rule; without one, and nobody there, it ends soon."""
        script = write_script(isolated, "printf 'Enter the colour'; read -r given; test \"$given\" = blue")
        rule = f'[[host.{own_node.host}.prompts]]\nexpect = "colour"\nanswer = {{ text = "blue" }}\n'
        settings(own_node, script, rules=rule)
        log_in(own_node)
        log_out(own_node)
        settings(own_node, script)
        begin = time.monotonic()
        error = report(own_node)
        assert time.monotonic() - begin < 30
        assert error["error"] == "UnexpectedPrompt"
        assert "no rule answers the prompt 'Enter the colour'" in error["message"]


class TestFailures:
    """Without the script's success ssh is not tried."""

    def test_its_status_and_its_last_words(self, own_node: Sandbox, isolated: Path) -> None:
        """The error has the path, the status, the last line, and the tail of what it said."""
        lines = "\n".join(f"echo line {number}" for number in range(40))
        script = write_script(isolated, f"{lines}\necho 'the centre is closed' >&2\nexit 7")
        settings(own_node, script)
        error = report(own_node)
        assert error["error"] == "LoginNeeded"
        assert error["message"] == (
            f"the authentication script {script} failed with status 7 (the centre is closed)"
        )
        assert error["argv"] == [str(script)]
        assert error["returncode"] == 7
        tail = error["stderr"].splitlines()
        assert tail[-2:] == ["line 39", "the centre is closed"]
        assert "line 0" not in tail
        assert own_node.connections() == 0

    def test_wrong_answers(self, authority_node: AuthorityNode) -> None:
        """A refused code is the script's failure: told in its words, and not tried again by itself."""
        node = authority_node
        settings(node, node.script, rules=rules_for(node, "000000"))
        error = report(node)
        assert error["error"] == "LoginNeeded"
        assert "failed with status 1 (Error: wrong credentials)" in error["message"]
        assert node.password not in json.dumps(error)
        assert "000000" not in json.dumps(error)
        again = ossh_run("-F", node.ssh_config, node.host, "true")
        assert again.returncode == 255
        assert b"wrong credentials" in again.stderr
        assert (node.runs(), node.connections()) == (1, 0)

    def test_a_person_may_try_again(self, authority_node: AuthorityNode) -> None:
        """After a failure a person types everything, and then all is well again without one."""
        node = authority_node
        settings(node, node.script, rules=rules_for(node, "000000"))
        assert report(node)["error"] == "LoginNeeded"
        child = terminal(node)
        answers = {"Username": node.name, "Password": node.password, "OTP": node.new_code()}
        for prompt, answer in answers.items():
            child.expect(f"{prompt}.*: ")
            child.sendline(answer)
        child.expect("is in place")
        assert end(child) == 0
        log_out(node)
        settings(node, node.script, 'min_validity = "30m"')
        log_in(node)
        assert node.runs() == 2

    def test_killed(self, own_node: Sandbox, isolated: Path) -> None:
        """A script that a signal ends has failed too, with status 128+N."""
        settings(own_node, write_script(isolated, "echo so far; kill -KILL $$"))
        error = report(own_node)
        assert "failed with status 137 (so far)" in error["message"]
        assert own_node.connections() == 0

    def test_deadline(self, own_node: Sandbox, isolated: Path) -> None:
        """A script that does not end in time is ended, and ssh is not tried."""
        tag = new_tag()
        settings(own_node, write_script(isolated, f"echo 'still waiting'; exec {tag}"), "script_timeout = 2")
        begin = time.monotonic()
        error = report(own_node)
        assert 2 <= time.monotonic() - begin < 30
        assert error["error"] == "LoginNeeded"
        until(lambda: not processes(tag), "the script to end")
        assert own_node.connections() == 0

    def test_deadline_says_what_was_said(self, own_node: Sandbox, isolated: Path) -> None:
        """The error of the deadline names the script, and has the tail of what it said."""
        script = write_script(isolated, f"echo 'still waiting'; exec {new_tag()}")
        settings(own_node, script, "script_timeout = 2")
        error = report(own_node)
        assert str(script) in error["message"]
        assert "still waiting" in error["stderr"]

    @pytest.mark.parametrize("trap", ["", "trap '' HUP INT TERM; "], ids=["plain", "trapped"])
    def test_deadline_ends_all_of_it(self, own_node: Sandbox, isolated: Path, trap: str) -> None:
        """What the script has started ends with it, also where it ignores signals."""
        tag = new_tag()
        settings(own_node, write_script(isolated, f"{trap}{tag} & {tag}; wait"), "script_timeout = 2")
        try:
            assert report(own_node)["error"] == "LoginNeeded"
            until(lambda: not processes(tag), "all of it to end", 5)
        finally:
            kill(tag)

    def test_deadline_without_a_terminal(self, own_node: Sandbox, isolated: Path) -> None:
        """A script that lets go of its terminal has the same deadline."""
        tag = new_tag()
        settings(
            own_node,
            write_script(isolated, f"exec </dev/null >/dev/null 2>&1; exec {tag}"),
            "script_timeout = 2",
        )
        try:
            done = ossh("login", "-F", own_node.ssh_config, own_node.host, timeout=15)
            assert done.returncode == 255
        finally:
            kill(tag)

    def test_what_it_leaves_in_the_background(self, own_node: Sandbox, isolated: Path) -> None:
        """The script has ended when it exits, although a browser that it opened keeps running."""
        tag = new_tag()
        settings(own_node, write_script(isolated, f"{tag} & echo opened"), "script_timeout = 5")
        try:
            log_in(own_node)
        finally:
            kill(tag)

    def test_interrupted_by_the_person(self, authority_node: AuthorityNode) -> None:
        """Ctrl-C at its question ends the script and the login; no ssh is tried, the lock is free."""
        node = authority_node
        settings(node, node.script)
        child = terminal(node)
        child.expect("Username: ")
        child.sendintr()
        end(child)
        assert child.signalstatus == signal.SIGINT
        assert not processes(node.script)
        assert node.connections() == 0
        child = terminal(node)
        child.expect("Username: ")
        child.sendintr()
        end(child)


class TestSettings:
    """What is wrong with the script's path is said when the settings load."""

    def said(self, node: Sandbox, text: str, **variables: str) -> str:
        """What `ossh login` says to a path."""
        settings(node, text)
        before = node.connections()
        done = ossh("login", "-F", node.ssh_config, node.host, env=variables)
        assert done.returncode == 255
        assert node.connections() == before
        words = done.stderr.decode()
        place = f'{os.environ["XDG_CONFIG_HOME"]}/opensshtransport/config.toml: host."{node.host}".'
        assert words.startswith(f"ossh login: {place}authentication_script"), words
        assert words.count("\n") == 1
        return words

    def test_missing(self, own_node: Sandbox, isolated: Path) -> None:
        """A path that leads nowhere."""
        assert f"there is no {isolated}/none (ossh help settings); correct the path" in self.said(
            own_node, f"{isolated}/none"
        )

    def test_dangling_link(self, own_node: Sandbox, isolated: Path) -> None:
        """A link that leads nowhere."""
        (isolated / "link").symlink_to("none")
        assert f"there is no {isolated}/link" in self.said(own_node, f"{isolated}/link")

    def test_not_executable(self, own_node: Sandbox, isolated: Path) -> None:
        """A file that cannot be executed; the advice is the command that changes it."""
        script = write_script(isolated, "exit 0")
        script.chmod(0o600)
        words = self.said(own_node, str(script))
        assert f"{script} is not executable (ossh help settings); run: chmod u+x {script}" in words
        subprocess.run(["chmod", "u+x", script], check=True)
        log_in(own_node)

    def test_directory(self, own_node: Sandbox, isolated: Path) -> None:
        """A directory is no script, whatever its mode; chmod is no remedy."""
        words = self.said(own_node, str(isolated))
        assert "is a directory" in words
        assert "chmod" not in words

    @pytest.mark.parametrize("text", ["bin/script", "script", "./script", ""])
    def test_not_absolute(self, own_node: Sandbox, text: str) -> None:
        """Any path but an absolute one is refused, because it would be relative to an unknown directory."""
        self.said(own_node, text)

    def test_home(self, own_node: Sandbox, isolated: Path) -> None:
        """`~` is the home directory."""
        write_script(isolated, f"echo run >>{isolated}/runs")
        settings(own_node, "~/script")
        done = ossh("login", "-F", own_node.ssh_config, own_node.host, env={"HOME": str(isolated)})
        assert done.returncode == 0, done.stderr.decode()
        assert (isolated / "runs").read_text() == "run\n"
        assert f"there is no {isolated}/none" in self.said(own_node, "~/none", HOME=str(isolated))

    @pytest.mark.parametrize("text", ["#!/no/such/interpreter\n", "exit 3\n"], ids=["missing", "none"])
    def test_no_interpreter(self, own_node: Sandbox, isolated: Path, text: str) -> None:
        """A script whose interpreter is missing, or that names none, fails with a word about it."""
        script = write_script(isolated, "")
        script.write_text(text)
        settings(own_node, script)
        error = report(own_node)
        assert str(script) in error["message"]
        assert own_node.connections() == 0

    def test_blank_in_its_path(self, own_node: Sandbox, isolated: Path) -> None:
        """A path with blanks and quotes is one path."""
        place = isolated / "a 'directory'"
        place.mkdir()
        write_script(place, f"echo run >>{isolated}/runs")
        settings(own_node, f"{place}/script")
        log_in(own_node)
        assert (isolated / "runs").read_text() == "run\n"


class TestCertificateThatEnded:
    """An expired certificate, about which ssh says only that the key was refused."""

    def test_is_said(self, authority_node: AuthorityNode) -> None:
        """Without a script the error names the certificate and when it ended."""
        node = authority_node
        before = datetime.datetime.now()  # noqa: DTZ005 - as it is shown: local time
        place = certify(node, "-2h:-1h")
        error = report(node)
        assert error["error"] == "LoginNeeded"
        assert f"the certificate {place} expired at " in error["message"]
        told = error["message"].partition(" expired at ")[2][:19]
        ended = datetime.datetime.fromisoformat(told)
        assert abs(before - datetime.timedelta(hours=1) - ended) < datetime.timedelta(seconds=60)
        assert "Permission denied (publickey)" in error["message"]
        assert error["advice"]["words"] == "get a new certificate"

    def test_is_not_said_of_a_living_one(self, authority_node: AuthorityNode) -> None:
        """A living certificate that is refused, for another name, is not called ended."""
        node = authority_node
        certify(node, "+1h", principal="somebody")
        error = report(node)
        assert " expired at " not in error["message"]
        assert "Permission denied (publickey)" in error["message"]

    def test_is_said_to_a_person_too(self, authority_node: AuthorityNode) -> None:
        """A person reads it at the terminal."""
        place = certify(authority_node, "-2h:-1h")
        child = terminal(authority_node)
        child.expect_exact(f"the certificate {place} expired at ")
        assert end(child) == 255


class TestEnvironment:
    """What the script finds around it."""

    def script(self, isolated: Path) -> Path:
        """A script that notes its agent."""
        return write_script(isolated, f'echo "${{SSH_AUTH_SOCK-none}}" >{shlex.quote(str(isolated))}/agent')

    def noted(self, node: Sandbox, isolated: Path, **variables: str) -> str:
        """Log in, and see what the script has noted."""
        done = ossh("login", "-F", node.ssh_config, node.host, env=variables)
        assert done.returncode == 0, done.stderr.decode()
        log_out(node)
        return (isolated / "agent").read_text().strip()

    def test_agent(self, own_node: Sandbox, isolated: Path) -> None:
        """It has the shared agent, if there is one, and else what the caller has."""
        settings(own_node, self.script(isolated))
        assert self.noted(own_node, isolated) == "none"
        with subprocess.Popen(
            ["ssh-agent", "-D", "-a", isolated / "own"], stdout=subprocess.DEVNULL
        ) as agent:
            until((isolated / "own").is_socket, "the agent")
            own = str(isolated / "own")
            assert self.noted(own_node, isolated, SSH_AUTH_SOCK=own) == own
            agent.terminate()
        # as `ossh agent` starts it
        with subprocess.Popen(
            ["ssh-agent", "-D", "-a", runtime() / "agent"], stdout=subprocess.DEVNULL
        ) as agent:
            until((runtime() / "agent").is_socket, "the agent")
            assert self.noted(own_node, isolated) == str(runtime() / "agent")
            agent.terminate()

    def test_terminal(self, own_node: Sandbox, isolated: Path) -> None:
        """Where nobody is, it still has a terminal of its own, so that its questions are seen."""
        script = write_script(isolated, f"test -t 0 && test -t 1 && tty </dev/tty >{isolated}/tty")
        settings(own_node, script)
        log_in(own_node)
        assert (isolated / "tty").read_text().startswith("/dev/")
