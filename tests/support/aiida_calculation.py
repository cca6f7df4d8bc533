"""A calculation with many files, for the daemon of a test's profile; only loaded where AiiDA is."""

from __future__ import annotations

import hashlib
from typing import Any

from aiida import orm
from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob


def content(seed: int, number: int) -> bytes:
    """What an input file holds."""
    return hashlib.sha256(f"{seed} {number}".encode()).digest() * (1 + number % 7)


class FileHeavy(CalcJob):  # type: ignore[misc]  # AiiDA is not looked at when types are checked
    """Many files in a nested tree, with hidden ones, blanks and links; the job copies them to come back."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """What it takes: `seed` makes the files' content, `count` says how many."""
        super().define(spec)
        spec.input("seed", valid_type=orm.Int)
        spec.input("count", valid_type=orm.Int)
        spec.inputs["metadata"]["options"]["resources"].default = {
            "num_machines": 1,
            "num_mpiprocs_per_machine": 1,
        }

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write the files, and say what comes back."""
        seed, count = self.inputs.seed.value, self.inputs.count.value
        for number in range(count):
            name = f"in puts/{number % 5}/.hidden" if number % 3 == 0 else "in puts/flat"
            place = folder.get_subfolder(name, create=True)
            with place.open(f"file {number}", "wb") as handle:
                handle.write(content(seed, number))
        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        # by stdin, as core.arithmetic.add does
        with folder.open("job.sh", "w", encoding="utf-8") as handle:
            handle.write(
                "mkdir -p out/trees && cp -r 'in puts' out/trees/ && ln -s 'in puts' out/trees/linked\n"
                "for n in 1 2 3; do echo $n > out/$n.log; done\n"
                "find 'in puts' -type f | wc -l\n"
            )
        code.stdin_name = "job.sh"
        code.stdout_name = "count"
        info = CalcInfo()
        info.codes_info = [code]
        info.retrieve_list = ["count", "not there", ("out/*.log", ".", 2), ("out/trees", ".", 1)]
        return info
