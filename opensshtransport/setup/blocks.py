"""The `Host` blocks of ssh_config that `ossh setup` writes.

The trap: the first value counts, so a line elsewhere may take precedence over a block. A file is changed only
as shown: the old one is kept, and restored if `ssh -G` shows that the new one does not have the intended
effect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from opensshtransport.errors import ConfigurationError, SettingsError
from opensshtransport.local import edits
from opensshtransport.openssh import programs, ssh_config
from opensshtransport.setup.plan import Hop, Plan, lacking, method_options, shortened, way
from opensshtransport.setup.step import Step


class Blocks(Step):
    """Writes the block of each hop that has none yet."""

    def write_blocks(self, plan: Plan) -> None:
        """Write each hop's block, unless `ssh -G` already says what is wanted."""
        for name, options in self.blocks(plan):
            if lacking(self.resolved(name), options):
                self.write_block(name, options)
            else:
                self.say(f"{name}: ssh_config already says so")

    def blocks(self, plan: Plan) -> Iterator[tuple[str, dict[str, str | None]]]:
        """The name and the options of each hop that the user has not defined already."""
        version = programs.version(self.ssh)
        for number, hop in enumerate(plan.hops):
            if hop.name not in plan.known:
                jumps = [before.name for before in plan.hops[:number]]
                yield hop.name, self._options(plan, hop, jumps, version)

    def _options(
        self, plan: Plan, hop: Hop, jumps: Sequence[str], version: tuple[int, int]
    ) -> dict[str, str | None]:
        now = self.resolved(hop.name)
        options: dict[str, str | None] = {"HostName": hop.hostname, "User": hop.user}
        if hop.port != now.port:
            options["Port"] = str(hop.port)
        options |= way(jumps, version, self.request.ssh_config)
        if not jumps and now.jumps:
            options["ProxyJump"] = None
        if plan.key is not None:
            options["IdentityFile"] = ssh_config.quoted(shortened(plan.key))
        if plan.certificate is not None:
            options["CertificateFile"] = ssh_config.quoted(shortened(plan.certificate))
        return {**options, **method_options(plan.method, sys.platform)}

    def _block_file(self, name: str) -> Path:
        """The file that contains a name's block, or will contain it."""
        ours = [path for path in ssh_config.files(self.request.ssh_config) if path.is_file()]
        own = [path for path in ours if path != ssh_config.SYSTEM_FILE and os.access(path, os.W_OK)]
        return next((path for path in own if ssh_config.has_block(path, name)), self.file)

    def refuse_another_block(self, name: str, options: Mapping[str, str | None]) -> None:
        """Refuse to change a block of the same name that says something else."""
        file = self._block_file(name)
        if ssh_config.has_block(file, name) and lacking(self.resolved(name), options):
            before = file.read_text(encoding="utf-8", errors="surrogateescape")
            self.show(before, ssh_config.with_block(before, name, options), file)
            raise _another_block(name, file)

    def write_block(self, name: str, options: Mapping[str, str | None]) -> None:
        """Write the block of one name."""
        file = self._block_file(name)
        before = edits.text_of(file)
        after = ssh_config.with_block(before, name, options)
        there = ssh_config.has_block(file, name)
        self.show(before, after, file)
        if self.request.dry_run:
            return
        if there and not self.request.yes and not self.confirm(f"Change the block of {name}?", default=False):
            raise _another_block(name, file)
        with edits.replaced(file, after, self.kept):
            if missing := lacking(self.resolved(name), options):
                keyword, found = next(iter(missing.items()))
                raise ConfigurationError(
                    f"{file} would not have this effect: something in it gives"
                    f" {keyword} {found or 'no value'} for {name}",
                    host=name,
                    topic="setup",
                    advice="remove that, because the first value counts; the file is unchanged",
                )
        self.say(f"{name}: written to {file}")


def _another_block(name: str, file: Path) -> SettingsError:
    return SettingsError(
        f"{file} has another block for {name}",
        topic="setup",
        advice="give --yes to have it changed, or choose another name",
    )
