"""What each setting means: the table from which `scripts/manual` makes the manual's page of settings.

The defaults are those of `settings.Settings`, and its readers decide what is accepted; a test compares the
three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What each type of value looks like in config.toml.
TYPES: Mapping[str, str] = {
    "program": "a name on `PATH`, or an absolute path; `~` is your home directory",
    "file": "an absolute path of a file that exists; `~` is your home directory",
    "time": 'whole seconds, or OpenSSH\'s notation: `"90s"`, `"12h"`, `"1h30m"`, `"3d"`',
    "seconds": "a time as above, or a number of seconds with a fraction; more than 0",
    "number": "a whole number, 1 or more, without quotes",
    "flag": "`true` or `false`, without quotes",
    "text": "a text in quotes",
    "answer": 'a table, as `{ keyring = "hpc", username = "me" }`: see [logging in](logging-in.md#answers)',
    "rules": 'tables `[[host."PATTERN".prompts]]`: see [prompts](prompts.md)',
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of config.toml: its type (of `TYPES`), an example in TOML, and what it means, in Markdown."""

    key: str
    type: str
    example: str
    meaning: str


CONNECTION: Sequence[Setting] = (
    Setting("ssh", "program", '"~/openssh-9.9/bin/ssh"', "The `ssh` to use."),
    Setting("scp", "program", '"/usr/bin/scp"', "The `scp` for [transfers by scp](transfers.md#the-ways)."),
    Setting(
        "sftp",
        "program",
        '"/usr/bin/sftp"',
        "The `sftp` for [transfers by sftp](transfers.md#the-ways) and for `ossh doctor`.",
    ),
    Setting("persist", "time", '"3d"', "How long an idle master stays (`ControlPersist`); 0 means no limit."),
    Setting(
        "server_alive_interval",
        "time",
        "30",
        "The interval of keep-alive messages (`ServerAliveInterval`). If not set: what `ssh_config` says,"
        " else 20 seconds. Keep the product of interval and count at 60 seconds or more: it also ends a"
        " login that waits for a push.",
    ),
    Setting(
        "server_alive_count_max",
        "number",
        "3",
        "How many keep-alive messages may stay unanswered (`ServerAliveCountMax`). If not set: what"
        " `ssh_config` says, else 3.",
    ),
    Setting(
        "connect_timeout",
        "time",
        '"20s"',
        "The limit for TCP and the server's greeting (`ConnectTimeout`), unless `ssh_config` sets one.",
    ),
    Setting(
        "check_timeout", "seconds", "2.5", "How long a running master may take to answer over the network."
    ),
    Setting("login_timeout", "time", '"10m"', "The limit for a whole login, your answers included."),
    Setting(
        "max_sessions",
        "number",
        "4",
        "How many sessions all your processes together open on a master: those of Python, AiiDA, `ossh cp`,"
        " `ossh sync` and `--once`, and those that `ossh-run` has open for the next command. An `ossh-run`"
        " that finds none opens one in addition, and waits only if the server refuses it. Keep this below"
        " the server's `MaxSessions`, which is often 10.",
    ),
    Setting(
        "forwards",
        "flag",
        "true",
        "Whether the master makes the [forwardings](one-master.md#forwardings) of `ssh_config`.",
    ),
)

LOGIN: Sequence[Setting] = (
    Setting(
        "authentication_script",
        "file",
        '"~/bin/get-key.sh"',
        "An executable that is run before a login, for example to get a new certificate.",
    ),
    Setting("script_timeout", "time", '"10m"', "The limit for that script, your answers included."),
    Setting(
        "min_validity",
        "time",
        '"2h"',
        "The script is run only if the certificate expires within this time. A Kerberos ticket that expires"
        " within it is renewed.",
    ),
    Setting("keytab", "file", '"~/.hpc.keytab"', "A Kerberos keytab to get a ticket with."),
    Setting(
        "login_hook",
        "text",
        "'notify-send \"$OSSH_HOST: $OSSH_REASON\"'",
        "A shell command that is run once, in the background, when only a person can log in. Its environment"
        " has `OSSH_HOST` and `OSSH_REASON`.",
    ),
    Setting(
        "prompts",
        "rules",
        '[{ expect = "(?i)^password", answer = { command = ["pass", "hpc"] } }]',
        "Rules that answer prompts, tried in their order. The keys of a rule are `expect`, `answer`,"
        " `hop` and `echo`.",
    ),
    Setting(
        "password",
        "answer",
        '{ keyring = "hpc", username = "me" }',
        "The password of this host, for the prompts of known centres.",
    ),
    Setting("code", "answer", '{ totp = { command = ["pass", "hpc-seed"] } }', "Likewise the one-time code."),
    Setting("pin", "answer", '{ keyring = "hpc-pin", username = "me" }', "Likewise the PIN."),
    Setting("second_factor", "text", '"push"', '`"push"` or `"code"`, for centres that offer both.'),
)

SETTINGS: Sequence[Setting] = (*CONNECTION, *LOGIN)
