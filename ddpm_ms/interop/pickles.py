"""Plain values from the opcodes of a pickle.

A pickle is a program for a small stack machine, and Python's own machine imports and calls whatever the program names. This
one knows the opcodes that make numbers, texts, lists, tuples and dicts. A name in a pickle is looked up in a table that the
caller gives, and calling it calls the function that stands in the table. Any other name is refused where it stands, used or
not. The limits below keep any pickle under 0.3 GB of memory.

The opcodes are those that torch.save writes (pickle protocols 2 to 5), described in CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Any, Callable, Mapping, NoReturn, Union

from ddpm_ms.errors import InputError, shown

# Each tensor takes about 40 opcodes and 150 bytes, so that 20,000 tensors and much else fit.
LARGEST_PICKLE = 2**25  # bytes
MOST_OPCODES = 10**6
LARGEST_INTEGER = 16  # bytes
LONGEST_KEY = 1000  # characters: comparing keys takes time
DEEPEST = 64  # lists, tuples and dicts within each other
MOST_VALUES = 10**6  # in the result, where one that is mentioned twice counts twice

_REFUSED = {ord("i"): "INST", ord("o"): "OBJ", 0x81: "NEWOBJ", 0x92: "NEWOBJ_EX", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4",
            ord("P"): "PERSID"}
Bytes = Union[bytes, mmap.mmap]


@dataclass(frozen=True)
class Global:
    """A name that pickles may hold, and what is called where a pickle calls it: a function of the tuple of arguments."""

    name: str
    make: Callable[[tuple[Any, ...]], Any] | None = None


def run(data: Bytes, at: int, end: int, known: Mapping[str, Global], persistent: Callable[[Any], Any]) -> tuple[Any, int]:
    """The value of the pickle at ``data[at:end]``, and where the pickle ends.

    Args:
        data: bytes, or a mapped file.
        at: the place of the first opcode.
        end: the place that the pickle does not go beyond.
        known: the names that the pickle may hold, "module.name".
        persistent: makes what a persistent id stands for.

    Raises:
        InputError: it is damaged, holds any other name, or goes beyond a limit.
    """
    machine = _Machine(data, at, min(end, at + LARGEST_PICKLE), known, persistent)
    try:
        return machine.run(), machine.at
    except (IndexError, KeyError, UnicodeDecodeError):  # an empty stack, an unknown memo, no text
        raise InputError(f"is damaged: its pickle makes no sense at byte {machine.at}") from None


class _Machine:
    """Stack, memo and place in the pickle. A mark puts the stack aside and begins a new one."""

    def __init__(self, data: Bytes, at: int, end: int, known: Mapping[str, Global], persistent: Callable[[Any], Any]) -> None:
        self.data, self.at, self.end, self.known, self.persistent = data, at, end, known, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MOST_OPCODES):
            code = self.take(1)[0]
            if code == ord("."):
                return self.stack.pop()
            if code not in _OPCODES:
                self.refuse(code)
            _OPCODES[code](self)
        raise InputError(f"has a pickle of more than {MOST_OPCODES} opcodes")

    def refuse(self, code: int) -> NoReturn:
        """What makes objects, and what torch.save does not write."""
        if code == ord("i"):
            self.name()
        name = _REFUSED.get(code, f"0x{code:02x}")
        found = [v.name for v in self.stack if isinstance(v, Global)]
        of = f" of {shown(found[-1])}" if found else ""
        raise InputError(f"has a pickle with the opcode {name}{of}, which is not carried out: it is damaged, or holds more than "
                         "state dicts and plain values")

    # Reading

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            raise InputError("ends within its pickle: it is cut short or damaged")
        self.at += count
        return self.data[self.at - count:self.at]

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def number(self, form: str) -> None:
        self.stack.append(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def integer(self, size: int) -> None:
        length = self.unsigned(size)
        if length > LARGEST_INTEGER:
            raise InputError(f"has a whole number of {length} bytes, allowed: at most {LARGEST_INTEGER}")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def text(self, size: int) -> None:
        self.stack.append(self.take(self.unsigned(size)).decode())

    def line(self) -> str:
        stop = self.data.find(b"\n", self.at, self.end)
        text = self.take((self.end if stop < 0 else stop) + 1 - self.at)
        return text[:-1].decode()

    # Lists, tuples, dicts

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        above, self.stack = self.stack, self.below.pop()
        return above

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise InputError(f"is damaged: its pickle has {_kind(self.stack[-1])} in the place of a {kind.__name__}")
        return self.stack[-1]

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def update(self, values: list[Any]) -> None:
        target = self.top(dict)
        if len(values) % 2:
            raise IndexError
        for key, value in zip(values[::2], values[1::2]):
            # Hashing a deep tuple ends the process, and large integers can be chosen to have one hash.
            if not (len(key) <= LONGEST_KEY if type(key) is str else type(key) is int and key.bit_length() <= 64):
                raise InputError(f"has a dict with {_kind(key)} as a key, allowed: texts of at most {LONGEST_KEY} characters and "
                                 "whole numbers of at most 64 bits")
            target[key] = value

    # Names and what is made by them

    def name(self, path: str | None = None) -> None:
        path = f"{self.line()}.{self.line()}" if path is None else path
        if path not in self.known:
            raise InputError(f"asks for {shown(path)}, which is not made: a file may hold state dicts and plain values, allowed "
                             f"are {', '.join(self.known)}")
        self.stack.append(self.known[path])

    def name_from_stack(self) -> None:
        module, name = self.last(2)
        if type(module) is not str or type(name) is not str:
            raise InputError(f"is damaged: it asks for a name made of {_kind(module)} and {_kind(name)}")
        self.name(f"{module}.{name}")

    def call(self) -> None:
        made, arguments = self.last(2)
        if type(made) is not Global or made.make is None:
            raise InputError(f"calls {shown(made.name) if type(made) is Global else _kind(made)}, which is no function of torch")
        if type(arguments) is not tuple:
            raise InputError(f"is damaged: it calls {made.name} with {_kind(arguments)}, allowed: a tuple")
        self.stack.append(made.make(arguments))

    def build(self) -> None:
        """Of an OrderedDict its attributes, the versions of its modules, which say nothing about numbers."""
        state, = self.last(1)
        if type(self.stack[-1]) is not dict or type(state) is not dict:
            raise InputError(f"sets the state of {_kind(self.stack[-1])}, allowed: the attributes of an OrderedDict")

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


def _kind(value: object) -> str:
    """For messages; a value itself may be endless."""
    return shown(value.name) if isinstance(value, Global) else f"a {type(value).__name__.strip('_')}"


_OPCODES: dict[int, Callable[[_Machine], Any]] = {
    0x80: lambda m: m.take(1), 0x95: lambda m: m.take(8),  # protocol, frame
    ord("N"): lambda m: m.push(None), 0x88: lambda m: m.push(True), 0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.number("<i"), ord("K"): lambda m: m.number("<B"), ord("M"): lambda m: m.number("<H"),
    0x8a: lambda m: m.integer(1), 0x8b: lambda m: m.integer(4), ord("G"): lambda m: m.number(">d"),
    ord("X"): lambda m: m.text(4), 0x8c: lambda m: m.text(1), 0x8d: lambda m: m.text(8),
    ord("("): _Machine.mark,
    ord(")"): lambda m: m.push(()), ord("]"): lambda m: m.push([]), ord("}"): lambda m: m.push({}),
    ord("t"): lambda m: m.push(tuple(m.since_mark())), 0x85: lambda m: m.push(tuple(m.last(1))),
    0x86: lambda m: m.push(tuple(m.last(2))), 0x87: lambda m: m.push(tuple(m.last(3))),
    ord("a"): lambda m: m.extend(m.last(1)), ord("e"): lambda m: m.extend(m.since_mark()),
    ord("s"): lambda m: m.update(m.last(2)), ord("u"): lambda m: m.update(m.since_mark()),
    ord("q"): lambda m: m.put(m.unsigned(1)), ord("r"): lambda m: m.put(m.unsigned(4)), 0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.push(m.memo[m.unsigned(1)]), ord("j"): lambda m: m.push(m.memo[m.unsigned(4)]),
    ord("c"): _Machine.name, 0x93: _Machine.name_from_stack, ord("R"): _Machine.call, ord("b"): _Machine.build,
    ord("Q"): lambda m: m.push(m.persistent(m.last(1)[0])),
}


def finished(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """``value`` with ``leaf(x)`` in the place of every x that is not a list, tuple, dict or plain value.

    Raises:
        InputError: it is within itself, nested too deeply, or too large where everything is written out.
    """
    return _Finish(leaf).finish(value, DEEPEST)[0]


class _Finish:
    """Each object is finished once, so that what a memo has multiplied takes no longer than it took to write."""

    def __init__(self, leaf: Callable[[Any], Any]) -> None:
        self.leaf = leaf
        self.done: dict[int, tuple[Any, int, int] | None] = {}  # by id: the result, how many values, how deep; None: within it

    def finish(self, value: Any, deeper: int) -> tuple[Any, int, int]:
        if value is None or type(value) in (bool, int, float, str):
            return value, 1, 0
        if id(value) not in self.done:
            self.done[id(value)] = None
            is_container = type(value) in (list, tuple, dict)
            self.done[id(value)] = self.container(value, deeper) if is_container else (self.leaf(value), 1, 0)
        found = self.done[id(value)]
        if found is None:
            raise InputError(f"has {_kind(value)} that is within itself")
        if found[2] > deeper:
            raise InputError(f"is nested more than {DEEPEST} deep")
        return found

    def container(self, value: Any, deeper: int) -> tuple[Any, int, int]:
        if deeper < 1:
            raise InputError(f"is nested more than {DEEPEST} deep")
        parts = [self.finish(part, deeper - 1) for part in (value.values() if type(value) is dict else value)]
        count, height = 1 + sum(part[1] for part in parts), 1 + max((part[2] for part in parts), default=0)
        if count > MOST_VALUES:
            raise InputError(f"has more than {MOST_VALUES} values")
        results = [part[0] for part in parts]
        return (dict(zip(value, results)) if type(value) is dict else type(value)(results)), count, height
