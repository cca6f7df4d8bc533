"""What mypy and pyright are to refuse, each in a line of its own, as `test_typing` looks; it is never run."""

# mypy: disable-error-code="call-overload,call-arg,arg-type,assignment,unused-ignore"

from __future__ import annotations

from opensshtransport import Transport


def mistakes(there: Transport) -> None:
    """Each line has one."""
    there.run("date", shell=True)  # noqa: S604 - the mistake
    there.run("date", tex=True)
    there.start("date", check=True)
    there.put("a", "b", recursiv=True)
    there.get("a", "b", way="rsync")
    text: str = there.run("date").stdout
    raw: bytes = there.run("date", text=True).stdout
    assert text != str(raw)
