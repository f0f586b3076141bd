"""Processes that train together hear within seconds when one of them dies or fails, and end too.

Each keeps a connection to the first, which the system closes when a process dies, however it does. Without it they
would wait for one another: on CPUs until the next exchange fails, on GPUs until a time-out.
"""

import json
import os
import secrets
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch
from lightning_fabric import Fabric

from seg_cli.errors import RunFailed, SegrunError
from seg_cli.training.launch import GRACE, end_children, give_up, leave_children

Message = dict[str, Any]

_open: set[socket.socket] = set()


def _forget_in_worker() -> None:
    """A worker that reads data inherits connections, and would keep them open when its process has died."""
    for connection in _open:
        connection.close()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_worker)


class Companions:
    """While it is open, a process that dies or fails ends the others, with a sentence that names it.

    Args:
        fabric: the processes, launched.
        on_loss: is told that sentence if this process has to be ended from outside of its main thread.

    Raises:
        RunFailed: on leaving, if another process is gone.
    """

    def __init__(self, fabric: Fabric, *, on_loss: Callable[[str], object]) -> None:
        self._fabric, self._on_loss = fabric, on_loss
        self._address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        self._name = f"Process {fabric.global_rank} (pid {os.getpid()} on {socket.gethostname()})"
        self._lost = ""  # a sentence on who is gone
        self._heard, self._over = threading.Event(), threading.Event()
        self._links: list[_Link] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "Companions":
        if self._fabric.world_size == 1:
            return self
        first = self._fabric.is_global_zero
        here = self._address if self._address == "127.0.0.1" else ""
        server = socket.create_server((here, 0), backlog=self._fabric.world_size) if first else None
        mine = (server.getsockname()[1] if server else 0, secrets.token_hex(16), self._name)
        port, token, self._first = self._fabric.broadcast(mine)
        if server:
            _open.add(server)
            thread = threading.Thread(target=self._listen, args=(server, token), daemon=True, name="companions")
        else:
            link = _Link(socket.create_connection((self._address, port), timeout=60))
            link.send({"token": token, "name": self._name})
            self._links.append(link)
            thread = threading.Thread(target=self._follow, args=(link,), daemon=True, name="companions")
        thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._fabric.world_size == 1:
            return
        if isinstance(error, Exception) and _is_of_exchange(error):
            self._heard.wait(5)  # the exchange may have failed before we heard why
        self._over.set()
        with self._lock:
            lost = self._lost
            reason = None if error is None or lost else _in_words(error)
            for link in self._links:
                link.send({"end": self._name, "reason": reason})
                link.close()
        if error is None and not lost:
            leave_children()
            return
        end_children()
        if lost and (error is None or not isinstance(error, SegrunError | KeyboardInterrupt)):
            if self._fabric.is_global_zero or lost.startswith(self._first):
                raise RunFailed(lost) from error
            raise SystemExit(1) from error  # the first process says it for all

    def _listen(self, server: socket.socket, token: str) -> None:
        """On the first process: hear from the others, and tell them what one of them said."""
        with server, selectors.DefaultSelector() as waiting:
            waiting.register(server, selectors.EVENT_READ, None)
            while not self._over.is_set():
                for key, _ in waiting.select(timeout=1):
                    if key.data is None:
                        link = _Link(server.accept()[0])
                        waiting.register(link.socket, selectors.EVENT_READ, link)
                        continue
                    self._hear(key.data, token)
                    if key.data.closed:
                        waiting.unregister(key.data.socket)
                        key.data.close()
        _open.discard(server)

    def _hear(self, link: "_Link", token: str) -> None:
        """What one of the others says. Who has not shown the token is nobody, whatever it says or however it ends."""
        for message in link.receive():
            if message.get("token") == token:
                link.name = message["name"]
                with self._lock:
                    self._links.append(link)
            elif link.name and "end" in message:
                link.ended = True
                if message["reason"]:
                    self._lose(f"{link.name} failed: {message['reason']}")
        if link.closed and link.name and not link.ended:
            self._lose(f"{link.name} died in the middle of training.")

    def _follow(self, link: "_Link") -> None:
        """On the others: hear from the first."""
        while not link.closed:
            for message in link.receive():
                if "end" in message:
                    link.ended = True
                    if message["reason"]:
                        self._lose(f"{message['end']} failed: {message['reason']}")
                elif "lost" in message:
                    self._lose(message["lost"])
        if not link.ended:
            self._lose(f"{self._first} died in the middle of training.")

    def _lose(self, sentence: str) -> None:
        with self._lock:
            if self._lost or self._over.is_set():
                return
            self._lost = sentence
            for link in self._links if self._fabric.is_global_zero else []:
                link.send({"lost": sentence})
        self._heard.set()
        threading.Thread(target=self._insist, daemon=True, name="companions-end").start()

    def _insist(self) -> None:
        if not self._over.wait(GRACE):
            self._on_loss(self._lost)
            give_up(self._lost)


class _Link:
    """Messages over a connection, one JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        self.socket = connection
        _open.add(connection)
        self.name, self.ended, self.closed = "", False, False
        self._rest = b""
        # A machine that is gone sends nothing at all: ask it, every few seconds.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def send(self, message: Message) -> None:
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.closed = True

    def receive(self) -> list[Message]:
        """Wait for what comes, which may be nothing whole; sets ``closed`` at the end."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        self.closed = self.closed or not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            return [message for message in map(json.loads, lines) if isinstance(message, dict)]
        except ValueError:  # not one of ours
            self.closed = True
            return []

    def close(self) -> None:
        _open.discard(self.socket)
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def _is_of_exchange(error: Exception) -> bool:
    """Whether an exchange with the other processes failed."""
    words = ("gloo", "nccl", "peer", "socket", "tcpstore", "timed out")
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def _in_words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    return str(error) if isinstance(error, SegrunError) else f"{type(error).__name__}: {error}".rstrip(": ")
