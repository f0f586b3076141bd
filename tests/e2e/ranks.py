"""Several processes that train together, forked from one that has imported everything, so that they start at once."""

import hashlib
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["tests.e2e.ranks", "tests.unit.tiny", "seg_cli.training.fit", "seg_cli.training.devices"]
)


@dataclass(frozen=True)
class Ended:
    """How a process ended: what it returned or how it failed, its exit status, its id, and what it said on stderr."""

    result: Any
    status: int | None
    pid: int
    err: str


def together(count: int, folder: Path, work: Callable[..., Any], *arguments: Any, seconds: float = 60) -> list[Ended]:
    """Call ``work(folder, *arguments)`` in each of so many processes, which know each other as torchrun's do.

    Args:
        count: how many.
        folder: for what they write.
        work: a function of a module.
        arguments: of the function.
        seconds: after which they must have ended.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    folder.mkdir(exist_ok=True)
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in range(count):
        words = {name: str(word) for name, word in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        process = _CONTEXT.Process(target=_enter, args=(words, folder, work, arguments))
        process.start()
        started.append(process)
    ended = []
    for rank, process in enumerate(started):
        process.join(seconds)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        assert not late, f"process {rank} did not end within {seconds} s"
        assert process.pid is not None
        out = folder / f"result{rank}.pt"
        result = torch.load(out, weights_only=False) if out.exists() else None
        out.unlink(missing_ok=True)
        ended.append(Ended(result, process.exitcode, process.pid, (folder / f"err{rank}.txt").read_text()))
    return ended


def _enter(words: Mapping[str, str], folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(words)
    torch.set_num_threads(1)
    rank = int(words["RANK"])
    handle = os.open(folder / f"err{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    try:
        result = work(folder, *arguments)
    except Exception as error:
        traceback.print_exc()
        result = error
    torch.save(result, folder / f"result{rank}.pt")


def digest(module: nn.Module) -> str:
    """A hash of the bits of the parameters."""
    found = hashlib.sha256()
    for parameter in module.parameters():
        whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        found.update(np.ascontiguousarray(whole.detach().numpy()).tobytes())
    return found.hexdigest()


class Troubled(nn.Module):
    """A network without batch norm in which something goes wrong in one process.

    Args:
        trouble: ``exit``, ``kill``, ``error``, ``hang`` (it is killed, and the others notice nothing, as where they
            wait for a GPU), or ``memory``: for batches of more than one sample.
        rank: of the process.
        step: at which training step from 0.
    """

    def __init__(self, trouble: str = "", rank: int = 1, step: int = 0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.decoder = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 7, 1)
        self.trouble, self.rank, self.step, self.steps = trouble, rank, step, 0

    def forward(self, images: Tensor) -> Tensor:
        self.steps += self.training
        if self.training and self.rank != int(os.environ["RANK"]):
            if self.trouble == "hang" and self.steps == self.step + 1:
                time.sleep(1000)
        elif self.training:
            if self.trouble == "memory" and len(images) > 1:
                raise torch.OutOfMemoryError("out of memory")
            if self.steps == self.step + 1:
                if self.trouble == "exit":
                    os._exit(0)
                if self.trouble in ("kill", "hang"):
                    os.kill(os.getpid(), signal.SIGKILL)
                if self.trouble == "error":
                    raise ValueError("this image has no pixels")
        return self.head(self.decoder(self.encoder(images / 255)).relu())
