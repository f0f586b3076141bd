"""The processes of a run: found where torchrun or srun started them, and started here otherwise.

A process that is one of many knows it from its environment, in the words of torchrun (RANK, WORLD_SIZE, ...) or of
srun; those that are started here are told in torchrun's words too. So each knows its number before they are connected.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.plugins.environments import ClusterEnvironment

from seg_cli.errors import UserError

GRACE = 10.0
"""Seconds in which a process may end in its own way after it heard that another one is gone."""

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PARENT = "SEGRUN_PARENT"  # environment variable of processes started here: the id of the one that did
_children: "list[_Children]" = []


@dataclass(frozen=True)
class World:
    """All processes of a run, and which of them this is.

    Attributes:
        size: how many there are, ``local_size`` of them on each machine.
        rank: number of this one, from 0; ``local_rank`` is that on its machine.
        address, port: where the first one is met.
        starter: who started them: ``torchrun``, ``srun``, or ``segrun`` itself.
    """

    size: int = 1
    local_size: int = 1
    rank: int = 0
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    starter: str = "segrun"

    @property
    def nodes(self) -> int:
        return self.size // self.local_size


class WorldEnvironment(ClusterEnvironment):
    """A ``World`` as Fabric asks for it."""

    creates_processes_externally = True

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def main_address(self) -> str:
        return self._world.address

    @property
    def main_port(self) -> int:
        return self._world.port

    @staticmethod
    def detect() -> bool:
        return True

    def world_size(self) -> int:
        return self._world.size

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._world.local_rank

    def node_rank(self) -> int:
        return self._world.rank // self._world.local_size


def world_around() -> World | None:
    """The processes that this one was started as one of; None if it was started alone.

    Raises:
        UserError: if machines have different numbers of processes, or the first one's address is not known.
    """
    env = os.environ
    if all(name in env for name in _TORCHRUN):
        rank, size, local_rank, local_size = (int(env[name]) for name in _TORCHRUN[:4])
        starter = "segrun" if _PARENT in env else "torchrun"
        return _even(World(size, local_size, rank, local_rank, env["MASTER_ADDR"], int(env["MASTER_PORT"]), starter))
    # Only the processes of srun have this; a batch script itself, or a shell in an allocation, has not.
    size, nodes = int(env.get("SLURM_STEP_NUM_TASKS", 1)), int(env.get("SLURM_STEP_NUM_NODES", 1))
    if size == 1:
        return None
    job, step = int(env.get("SLURM_JOB_ID", 0)), int(env.get("SLURM_STEP_ID", 0))
    port = int(env.get("MASTER_PORT", 20000 + (31 * job + step) % 12000))
    ranks = int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
    if size % nodes:
        raise UserError(
            f"srun started {size} processes on {nodes} machines, and every machine must have as many as the others. "
            "Ask for them with --nodes and --ntasks-per-node."
        )
    return World(size, size // nodes, *ranks, _srun_address(nodes), port, "srun")


def start_world(count: int) -> World:
    """Start the other ``count - 1`` processes on this machine: they repeat this command. This one becomes the first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    words = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        _PARENT: os.getpid(),
    }
    command = _this_command()
    started = []
    for rank in range(1, count):
        own = {name: str(word) for name, word in (words | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        started.append(subprocess.Popen(command, env={**os.environ, **own}))
    watch = _Children(started)
    watch.start()
    _children.append(watch)
    return World(count, count, port=port)


def leave_children() -> None:
    """No longer mind how processes started here end: they have done their part."""
    for watch in _children:
        watch.leave()


def end_children() -> None:
    """See that processes started here are gone; those that do not end by themselves within seconds are killed."""
    while _children:
        _children.pop().end()


atexit.register(end_children)


def follow_parent() -> None:
    """If this process was started by ``start_world``: end it when the one that did is gone."""
    parent = int(os.environ.get(_PARENT, 0))
    if parent:
        threading.Thread(target=_follow, args=(parent,), daemon=True, name="follow-parent").start()


def give_up(sentence: str) -> None:
    """End this process from whichever thread, while its main thread waits for something that will never come."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    for watch in _children:
        watch.kill()
    os._exit(1)


class _Children(threading.Thread):
    """Watches the processes that were started here; if one dies and this one does not end either, it is ended."""

    def __init__(self, processes: list[subprocess.Popen]) -> None:
        super().__init__(daemon=True, name="children")
        self._processes = processes
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.5):
            for rank, process in enumerate(self._processes, start=1):
                if process.poll():
                    # Those that train together hear of it faster, and end in their own way, see ``companions``.
                    if not self._over.wait(GRACE):
                        give_up(
                            f"Process {rank} (pid {process.pid} on {socket.gethostname()}) {_how(process.returncode)}; "
                            "the others have been ended too."
                        )
                    return

    def leave(self) -> None:
        self._over.set()

    def end(self) -> None:
        self.leave()
        latest = time.monotonic() + 5
        for process in self._processes:
            try:
                process.wait(max(0.0, latest - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        for process in self._processes:
            process.kill()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(GRACE)
    give_up(f"Process {os.environ['RANK']} has ended, because process 0 (pid {parent}), which started it, is gone.")


def _how(code: int) -> str:
    if code > 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _even(world: World) -> World:
    if world.size % world.local_size:
        raise UserError(
            f"{world.starter} started {world.local_size} of {world.size} processes on this machine, and every machine "
            "must have as many as the others. Start them with --nproc-per-node of torchrun, the same on each."
        )
    return world


def _srun_address(nodes: int) -> str:
    """Where the first node is reached: some clusters name nodes in a way that only SLURM itself can resolve."""
    if "MASTER_ADDR" in os.environ:
        return os.environ["MASTER_ADDR"]
    if nodes == 1:
        return "127.0.0.1"
    listed = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    first = (_scontrol("hostnames", listed).split() or [listed])[0]
    try:
        socket.getaddrinfo(first, None)
        return first
    except OSError:
        fields = dict(field.partition("=")[::2] for field in _scontrol("node", first).split())
    address = fields.get("NodeAddr", "")
    try:
        socket.getaddrinfo(address or None, None if address else 0)
    except OSError:
        address = ""
    if not address:
        raise UserError(
            f"srun: the address of the first node, {first}, cannot be found out. Set MASTER_ADDR to a name or number "
            "under which every node reaches it, in the script before srun."
        )
    return address


def _scontrol(what: str, name: str) -> str:
    try:
        done = subprocess.run(["scontrol", "show", what, name], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _this_command() -> list[str]:
    """What starts another process that does what this one does."""
    program = [sys.argv[0]] if Path(sys.argv[0]).name == "segrun" else ["-m", "seg_cli"]
    if not (HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN):
        return [sys.executable, *program, *sys.argv[1:]]
    # One job of a sweep, perhaps in a worker whose own command line says nothing of it.
    hydra = HydraConfig.get()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    options = [*(f"--config-dir={folder}" for folder in folders), f"--config-name={hydra.job.config_name}"]
    return [sys.executable, "-m", "seg_cli", "train", *options, *hydra.overrides.task]
