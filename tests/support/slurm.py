"""A Slurm cluster of one node on loopback: munged, slurmctld and slurmd, started only for tests.

All of it lies in one directory and ends with its `with` block. The system's own Slurm and munge, and their
configuration, are not touched.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.nodes import missing_programs
from tests.support.users import wait_until

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo")
# Job scripts of tests are over in a moment; a starved machine may still need a while to take one up.
_START_WITHIN = 60.0


def missing_for_slurm() -> str:
    """Say why there can be no cluster here; empty if there can."""
    if missing := missing_programs(*_PROGRAMS):
        return f"{missing} (Debian packages slurm-wlm and munge)"
    return "" if os.geteuid() == 0 else "slurmd runs the jobs of other users as root only"


@dataclass(eq=False)
class Slurm:
    """A cluster whose jobs any user of this machine may submit, by `environment`.

    Args:
        slots: how many jobs run at once; they sleep more than they compute.

    Attributes:
        directory: where everything of it lies; passable for other users.
    """

    slots: int = 16
    directory: Path = field(init=False)
    _daemons: list[subprocess.Popen[bytes]] = field(init=False, default_factory=list)

    def __enter__(self) -> Slurm:
        self.directory = Path(tempfile.mkdtemp(prefix="os", dir="/tmp"))
        self.directory.chmod(0o755)
        try:
            self._start_munge()
            self._start_slurm()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """What `sbatch` and its like need to find this cluster."""
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    def submissions(self) -> list[str]:
        """The working directory of each job that has ended, as the controller's own record has it."""
        record = self.directory / "completed"
        text = record.read_text(errors="replace") if record.exists() else ""
        return [
            word.removeprefix("WorkDir=")
            for line in text.splitlines()
            for word in line.split()
            if word.startswith("WorkDir=")
        ]

    def seen(self) -> int:
        """How many jobs the controller remembers: waiting, running or ended in the last minutes."""
        return len(self._ask("squeue", "--noheader", "--states=all").splitlines())

    def queued(self) -> int:
        """How many jobs wait or run."""
        return len(self._ask("squeue", "--noheader").splitlines())

    def _ask(self, *argv: str) -> str:
        done = subprocess.run(
            argv,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def _start_munge(self) -> None:
        home = self.directory / "munge"
        home.mkdir(mode=0o755)
        key = home / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        where = home / "socket"
        argv = ["munged", "--foreground", f"--key-file={key}", f"--socket={where}"]
        argv += [f"--log-file={home}/log", f"--pid-file={home}/pid", f"--seed-file={home}/seed"]
        # the sticky bit of /tmp is not enough for it
        self._spawn([*argv, "--force", "--num-threads=2"], "munged")
        wait_until(where.is_socket, seconds=_START_WITHIN, what="munged")

    def _start_slurm(self) -> None:
        for name in ("state", "spool"):
            (self.directory / name).mkdir(mode=0o755)
        ports = [*_free_ports(2)]
        (self.directory / "slurm.conf").write_text(
            _CONFIGURATION.format(
                directory=self.directory,
                host=socket.gethostname().partition(".")[0],
                user=pwd.getpwuid(os.geteuid()).pw_name,
                controller=ports[0],
                node=ports[1],
                slots=self.slots,
                record=shutil.which("true"),
            )
        )
        # it needs the file before its first job ends
        self._spawn(["slurmctld", "-D", "-c", "-i"], "slurmctld")
        self._spawn(["slurmd", "-D", "-c"], "slurmd")
        wait_until(
            lambda: self._ask("sinfo", "--noheader", "--format=%t").strip() in {"idle", "mix", "alloc"},
            seconds=_START_WITHIN,
            what=f"Slurm's node; see {self.directory}",
        )

    def _spawn(self, argv: Sequence[str], name: str) -> None:
        with (self.directory / f"{name}.out").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    argv,
                    env={**os.environ, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def close(self) -> None:
        """End the jobs and the daemons, and remove all."""
        if len(self._daemons) > 1:
            for job in self._ask("squeue", "--noheader", "--format=%A").split():
                self._ask("scancel", "--full", "--signal=KILL", job)
        for daemon in reversed(self._daemons):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def _free_ports(count: int) -> Iterator[int]:
    with contextlib.ExitStack() as held:
        for _ in range(count):
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            yield probe.getsockname()[1]


# More processors are declared than there are (slurmd -D takes it by config_overrides), so that many jobs
# run at once. jobcomp/filetxt is the record of all jobs, one line each; slurmdbd would want a database.
_CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={directory}/completed
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,defer_batch
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
PropagateResourceLimits=NONE
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
