"""What `scripts/test` leaves out without `--all`, which CI uses.

These tests are slow, and show with more cases what a few show already. A test named by its id on the command
line always runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

# Whole tests, by file and name: none of them is run.
LEFT_OUT: frozenset[str] = frozenset(
    {
        "aiida/test_aiida.py::test_configure",
        "aiida/test_aiida.py::test_many_calculations",
        "aiida/test_aiida.py::test_moving_over",
        "aiida/test_aiida.py::test_person_logs_in_and_plays",
        "commands/test_cuts.py::test_cuts",
        "commands/test_cuts.py::test_cuts_with_once",
        "commands/test_terminals.py::test_closed_descriptors_of_a_copy",
        "commands/test_transport.py::test_500_tasks",
        "commands/test_transport.py::test_much_output_needs_no_memory",
        "commands/test_transport.py::test_nothing_is_left_over",
        "faults/test_clocks.py::test_codes",
        "faults/test_clocks.py::test_pauses",
        "faults/test_shared_masters.py::test_killed_masters",
        "master/test_status.py::test_a_copy_fills_the_link",
        "setup/test_setup.py::test_from_an_empty_home_directory",
        "transfer/test_transfer.py::test_cut_until_it_is_through",
        "transfer/test_transfer.py::test_memory_is_flat",
    }
)

# Files that take more than half a minute: only one of this many of their tests (with parameters) is run.
SAMPLED: Mapping[str, int] = {
    "aiida/test_aiida.py": 6,
    "cli/test_completion.py": 2,
    "cli/test_copying.py": 7,
    "cli/test_names.py": 2,
    "commands/test_ossh_run.py": 5,
    "commands/test_process.py": 5,
    "commands/test_spares.py": 3,
    "commands/test_terminals.py": 2,
    "commands/test_transport.py": 14,
    "commands/test_twice.py": 4,
    "doctor/test_doctor.py": 6,
    "files/test_files.py": 14,
    "local/test_settings.py": 2,
    "local/test_tools.py": 2,
    "login/test_agent.py": 2,
    "login/test_budget.py": 3,
    "login/test_login.py": 2,
    "login/test_script.py": 4,
    "login/test_second_factor.py": 10,
    "login/test_secrets.py": 7,
    "login/test_ticket.py": 5,
    "manual/test_pages.py": 9,
    "master/test_aliases.py": 6,
    "master/test_status.py": 3,
    "openssh/test_errors.py": 3,
    "remote/test_wrapper.py": 3,
    "sessions/test_channel.py": 2,
    "sessions/test_shell.py": 2,
    "setup/test_setup.py": 2,
    "sharing/test_real_programs.py": 4,
    "test_install.py": 3,
    "test_sandbox.py": 2,
    "test_security.py": 7,
    "transfer/test_drafts.py": 3,
    "transfer/test_far_tools.py": 5,
    "transfer/test_growing.py": 6,
    "transfer/test_in_place.py": 2,
    "transfer/test_sftp.py": 2,
    "transfer/test_transfer.py": 7,
}


def left_out(ids: Sequence[str]) -> set[str]:
    """Those of these tests that are run with `--all` alone.

    Args:
        ids: as pytest has them, `tests/folder/test_file.py::test_name[parameters]`.
    """
    seen: Counter[str] = Counter()
    found = set()
    for whole in ids:
        name = whole.partition("[")[0].removeprefix("tests/")
        file = name.partition("::")[0]
        if name in LEFT_OUT or seen[file] % SAMPLED.get(file, 1):
            found.add(whole)
        seen[file] += 1
    return found
