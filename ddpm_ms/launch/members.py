"""The processes of a job on this node, each known by its connection to the `rank.py` beside it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
from typing import Any


class Member:
    """A rank, or the scheduler: its ``name``, and once it has ended its ``status`` (negative: the signal that ended it)."""

    def __init__(self, connection: socket.socket) -> None:
        self.name = ""
        self.pid = 0
        self.status: int | None = None
        self.ended = False
        self.connection = connection
        self._sent: set[int] = set()
        self._unread = b""

    @property
    def is_rank(self) -> bool:
        """Whether this is known to be a rank."""
        return self.name.startswith("rank ")

    @property
    def is_scheduler(self) -> bool:
        """Whether this is known to be MindSpore's scheduler."""
        return self.name == "scheduler"

    @property
    def exit_status(self) -> int:
        """Its status as a shell shows it; it must have ended."""
        assert self.status is not None
        return self.status if self.status >= 0 else 128 - self.status

    def send(self, number: int) -> None:
        """Have a signal delivered, once however often this is asked."""
        if number not in self._sent:
            self._sent.add(number)
            with contextlib.suppress(OSError):
                self.connection.send(bytes([number]))

    def receive(self) -> None:
        """Take what has come; at the end of the connection the member has ``ended``."""
        try:
            data = self.connection.recv(4096)
        except OSError:
            data = b""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            self.name = message.get("name", self.name)
            self.pid = message.get("pid", self.pid)
            self.status = message.get("status", self.status)
        if not data:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self.connection.close()
        if self.status is None:  # rank.py itself was killed, and cannot end its command any more
            self.status = -signal.SIGKILL
            if self.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)


class Members:
    """Listens at ``address``, the path of a socket, for the members of one job."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.all: list[Member] = []
        self.ended: list[Member] = []  # in this order
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)

    def __enter__(self) -> Members:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.send(signal.SIGKILL)
        for member in self.all:
            member.connection.close()
        self._listener.close()
        self._selector.close()

    @property
    def ranks(self) -> list[Member]:
        """Those that are ranks, in the order in which they came."""
        return [member for member in self.all if member.is_rank]

    def send(self, number: int) -> None:
        """Have a signal delivered to every member."""
        for member in self.all:
            member.send(number)

    def receive(self, seconds: float) -> None:
        """Wait up to ``seconds`` for news, and take all there is."""
        while events := self._selector.select(seconds):
            for key, _ in events:
                if key.data is None:
                    self._welcome()
                else:
                    self._hear(key.data)
            seconds = 0

    def _welcome(self) -> None:
        member = Member(self._listener.accept()[0])
        self.all.append(member)
        self._selector.register(member.connection, selectors.EVENT_READ, member)

    def _hear(self, member: Member) -> None:
        descriptor = member.connection.fileno()
        member.receive()
        if member.ended:
            self._selector.unregister(descriptor)
            self.ended.append(member)
