"""The options of `verdi computer configure openssh`: their names, words and checks.

Those that `core.ssh_async` has too have its names, its values and its checks, so that they can be copied.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from aiida.transports.transport import validate_positive_number

from opensshtransport.errors import SettingsError
from opensshtransport.local.settings import parse_duration
from opensshtransport.openssh import destination

# The value of an option that is not set; as in `core.ssh_async`.
UNSET = "None"


def _file(value: str, *, executable: bool) -> str:
    if value == UNSET:
        return value
    # the words of `core.ssh_async`
    if not os.path.isabs(value):  # noqa: PTH117 - a text that was typed
        raise click.BadParameter(f"{value} is not an absolute path")
    if not Path(value).is_file():
        raise click.BadParameter(f"The file {value} does not exist")
    if executable and not os.access(value, os.X_OK):
        raise click.BadParameter(f"The script {value} is not executable")
    return value


def _script(_context: object, _parameter: object, value: str) -> str:
    return _file(value, executable=True)


def _configuration(_context: object, _parameter: object, value: str) -> str:
    return _file(value, executable=False)


def _duration(_context: object, _parameter: object, value: str) -> str:
    if value != UNSET:
        try:
            parse_duration(value if not value.isdigit() else int(value), "the value")
        except SettingsError as reason:
            raise click.BadParameter(str(reason)) from reason
    return value


def _at_least_one(context: object, parameter: object, value: int) -> int:
    if validate_positive_number(context, parameter, value) < 1:
        raise click.BadParameter(f"{value} is less than 1")
    return value


def _host(_context: object, _parameter: object, value: str) -> str:
    try:
        return destination.check_destination(value)
    except SettingsError as reason:
        raise click.BadParameter(str(reason)) from reason


def _option(kind: type, prompt: str, help: str, callback: object, **more: object) -> dict[str, object]:  # noqa: A002 - click's word
    return {
        "type": kind,
        "prompt": prompt,
        "help": help,
        "callback": callback,
        "non_interactive_default": True,
        **more,
    }


OPTIONS: list[tuple[str, dict[str, object]]] = [
    (
        "host",
        _option(
            str,
            "Login host, as in 'ssh <HOST>'",
            "A name of your `~/.ssh/config`, where user, port, keys and jump hosts are defined.",
            _host,
        ),
    ),
    (
        "max_io_allowed",
        _option(
            int,
            "Maximum number of concurrent operations",
            "How many operations each daemon worker runs at once.",
            _at_least_one,
            default=8,
        ),
    ),
    (
        "authentication_script",
        _option(
            str,
            "Local script to run before a login (path)",
            "(optional) A program that gets a new key or certificate, for example. It is run only where"
            " a login is needed, and not while the certificate is valid for longer than `min_validity`.",
            _script,
            default=UNSET,
        ),
    ),
    (
        "min_validity",
        _option(
            str,
            "How long a certificate must still be valid for the script not to run",
            "(optional) A time such as 30m or 2h; 'None' for what config.toml says, or 1h.",
            _duration,
            default=UNSET,
        ),
    ),
    (
        "persist",
        _option(
            str,
            "How long an idle connection stays open",
            "(optional) A time such as 12h or 3d, 0 for no limit; 'None' for what config.toml says, or 12h.",
            _duration,
            default=UNSET,
        ),
    ),
    (
        "login_hook",
        _option(
            str,
            "Local command to run when only a person can log in",
            "(optional) It may send you a message. Its environment has OSSH_HOST and OSSH_REASON.",
            None,
            default=UNSET,
        ),
    ),
    (
        "ssh_config",
        _option(
            str,
            "ssh_config file to use instead of ~/.ssh/config (path)",
            "(optional) As `ssh -F` takes it.",
            _configuration,
            default=UNSET,
        ),
    ),
]

_BY_CONFIG = "it belongs in ssh_config, where `ossh aiida migrate` writes it"

# Options of AiiDA's own transports that have no meaning here. They are accepted in an exported configuration,
# so that it can be used unchanged.
IGNORED = {
    # core.ssh_async
    "backend": "",
    "use_sftp": "",
    "data_node_host": "files go through the login host",
    "script_before": "give it as authentication_script",
    # core.ssh
    **dict.fromkeys(("username", "port", "key_filename", "proxy_jump", "proxy_command"), _BY_CONFIG),
    **dict.fromkeys(("gss_auth", "gss_kex", "gss_deleg_creds", "gss_host"), _BY_CONFIG),
    **dict.fromkeys(("timeout", "compress", "look_for_keys", "allow_agent", "load_system_host_keys"), ""),
    "key_policy": "host keys are always checked",
}


def _ignored(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """Warn that an option is ignored, if it was given and is set."""
    given = {click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP}
    name = str(parameter.name)
    if context.get_parameter_source(name) in given and value not in (None, "", UNSET):
        from aiida.cmdline.utils import echo

        why = IGNORED[name] or "it has no meaning here"
        echo.echo_report(f"{name} = {value} is ignored: {why}")


OPTIONS += [
    (
        name,
        {
            "type": click.UNPROCESSED,
            "hidden": True,
            "expose_value": False,
            "non_interactive_default": True,
            "prompt_fn": lambda _context: False,
            "callback": _ignored,
        },
    )
    for name in IGNORED
]

SETTINGS = ("authentication_script", "min_validity", "persist", "login_hook")


def plain(value: object) -> Any:
    """The value of a setting, as in config.toml: `verdi` passes text, Python any value."""
    if value is None or value in ("", UNSET):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return shlex.join(str(word) for word in value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def plain_settings(given: Mapping[str, object]) -> dict[str, object]:
    """Those that are set."""
    return {name: value for name in given if (value := plain(given[name])) is not None}


def at_least_one(value: object) -> int:
    """How many operations may run at once.

    Raises:
        SettingsError: it is not a number, or below 1.
    """
    number = plain(value)
    if number is None:
        return 8
    if isinstance(number, int) and not isinstance(number, bool) and number >= 1:
        return number
    raise SettingsError(f"max_io_allowed = {value!r} is not a number above 0", advice="give 1 or more")


def chosen(computer: Any, name: str, otherwise: object) -> object:
    """What a computer is configured to if that may be a false value: AiiDA asks for a suggestion then."""
    value = computer.get_configuration().get(name)
    return otherwise if value is None else value
