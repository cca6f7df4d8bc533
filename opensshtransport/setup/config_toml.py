"""`config.toml` with other values for one host; everything else in it stays unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from opensshtransport.errors import SettingsError


def toml(text: str) -> str:
    """A basic string of TOML; JSON's escapes are among its own."""
    return json.dumps(text)


def with_settings(text: str, host: str, values: Mapping[str, str]) -> str:
    """The text of a config.toml in which the table of a host has these values, written as TOML.

    The text is edited, not written anew: comments and order are the user's, and order counts.

    Raises:
        SettingsError: the table has another value already.
    """
    lines = text.splitlines()
    headers = {f'[host."{host}"]', f"[host.{host}]", f"[host.'{host}']"}
    place = next((number for number, line in enumerate(lines) if _bare(line) in headers), None)
    if place is None:
        first = next(
            (number for number, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines)
        )
        while 0 < first < len(lines) and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        table = [f"[host.{toml(host)}]", *(f"{key} = {value}" for key, value in values.items())]
        # before the others, because the first table that has a value decides
        lines[first:first] = [*table, ""] if lines[first:] else [*([""] if lines else []), *table]
        return "".join(f"{line}\n" for line in lines)
    end = place + 1
    while end < len(lines) and not lines[end].lstrip().startswith("["):
        end += 1
    missing = []
    for key, value in values.items():
        there = [line for line in lines[place + 1 : end] if re.match(rf"\s*{key}\s*=", line)]
        if not there:
            missing.append(f"{key} = {value}")
        elif _bare(there[0].partition("=")[2]) != value:
            raise SettingsError(
                f"config.toml has another {key} for {host}", advice=f"write there: {key} = {value}"
            )
    lines[place + 1 : place + 1] = missing
    return "".join(f"{line}\n" for line in lines)


def _bare(line: str) -> str:
    """A line without the comment at its end."""
    return re.sub(r"""\s+#[^"']*$""", "", line).strip()
