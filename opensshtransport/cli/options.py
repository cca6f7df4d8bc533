"""What the parsers of several commands have in common."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

# Statuses that scripts can rely on: ssh's own 255 for all failures of ours, 124 as timeout(1).
FAILED = 255

TIMED_OUT = 124


# How argparse says which operands are missing.
_MISSING = "the following arguments are required: "

# Wider than any usage, so that none is wrapped.
_ONE_LINE = 1000


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes end with ssh's status.

    Attributes:
        intermixed: options may come between operands.
    """

    intermixed = False

    def error(self, message: str) -> NoReturn:
        """Print one line with the usage and one with the mistake; then end."""
        # the options would take several lines; --help lists them
        options = " [OPTION ...]" if any(action.option_strings for action in self._actions) else ""
        formatter = argparse.HelpFormatter(f"{self.prog}{options}", width=_ONE_LINE)
        operands = [action for action in self._actions if not action.option_strings]
        formatter.add_usage(None, operands, [])
        if missing := message.removeprefix(_MISSING) if message.startswith(_MISSING) else "":
            message = f"{missing} {'are' if ', ' in missing else 'is'} missing"
        self.exit(
            FAILED, f"{formatter.format_help().strip()}\n{self.prog}: {message}, see {self.prog} --help\n"
        )

    def parse_all(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse all words; an unknown one ends the program with one line."""
        parse = self.parse_known_intermixed_args if self.intermixed else self.parse_known_args
        arguments, unknown = parse(words)
        if unknown:
            option = next((word for word in unknown if word.startswith("-")), None)
            what = self._no_option(option) if option else f"unexpected argument {unknown[0]!r}"
            self.exit(FAILED, f"{self.prog}: {what}, see {self.prog} --help\n")
        return arguments

    def _no_option(self, option: str) -> str:
        shown = [action.option_strings for action in self._actions if action.help != argparse.SUPPRESS]
        return f"there is no option {option}, only {' '.join('|'.join(names) for names in shown if names)}"


def add_ssh_config(parser: argparse.ArgumentParser) -> None:
    """Add -F, as ssh has it."""
    parser.add_argument(
        "-F", dest="ssh_config", metavar="CONFIG", help="use this ssh_config file, as ssh -F does"
    )


class _Version(argparse.Action):
    """`--version`: ours, and that of the OpenSSH in use, which is only asked here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import opensshtransport
        from opensshtransport.openssh import programs

        print(f"{parser.prog} {opensshtransport.__version__}, {programs.release('ssh')}")
        parser.exit()


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add --version."""
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        help=f"show the versions of {parser.prog} and of OpenSSH",
    )


def config_path(ssh_config: str | None) -> Path | None:
    """The file that -F names, as an absolute path."""
    return None if ssh_config is None else Path(ssh_config).expanduser().absolute()


def remote_words(words: list[str]) -> list[str]:
    """The words of a command without the `--` that ends the options, as for ssh."""
    return words[1:] if words[:1] == ["--"] else words


def seconds(text: str) -> float:
    """A time above 0, in seconds or in OpenSSH's notation as in config.toml, as `type` of an option."""
    from opensshtransport.local.settings import parse_duration

    parses: tuple[Callable[[str], float], ...] = (float, lambda value: parse_duration(value, ""))
    for parse in parses:
        with contextlib.suppress(ValueError):
            if 0 < (value := parse(text)) < 1e9:
                return float(value)
    raise argparse.ArgumentTypeError(f"must be a time above 0 such as 90, 90s or 5m, not {text!r}")


def positive(text: str) -> float:
    """A number above 0, as `type` of an option."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e12:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
