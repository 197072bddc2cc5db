"""What a pickle holds, found out without running it.

A pickle is a program for a stack machine: it may import any name, call it, and change what the call
returned. Here nothing is imported. A few names stand for functions of the caller's; every other
name gives an inert `NotRead`, as does whatever the program does with it, so that a number or an
object beside the weights does no harm. Source of the instructions: `pickletools` of Python.
"""

import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

_MOST_INSTRUCTIONS = 20_000_000
"""A checkpoint of ten thousand tensors has about 400,000."""
_KEY_BITS = 64
_RUNNING = frozenset(
    "os posix nt subprocess sys shutil socket importlib runpy pty pdb pickle _pickle marshal "
    "ctypes webbrowser".split()
)
"""Modules that a pickle of weights has no reason to name: whoever does wants something to run."""
_RUNNING_BUILTINS = frozenset(
    "__import__ apply breakpoint compile delattr eval exec execfile exit globals help input locals "
    "open print quit reload setattr vars".split()
)


class Refused(Exception):
    """Why a pickle is not read; the message is part of a sentence about the file."""


class NotRead:
    """Stands for an object that no weights need. Nothing was made of it.

    Attributes:
      kind: module and name of what the pickle asked for.
    """

    def __init__(self, kind: str):
        """Stands for an object of this kind."""
        self.kind = kind


class Dict(dict):
    """A dict, of which only the items are kept whose keys are strings or whole numbers.

    Others can take for ever to hash: a tuple in a tuple, each twice, sixty times.

    Attributes:
      left_out: type of a key that was none of these; empty if all were.
    """

    left_out = ""

    def fill(self, items: Sequence[Any]) -> None:
        """Takes in keys and values, by turns."""
        if len(items) % 2:
            raise Refused("its pickle is damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            whole = isinstance(key, int) and key.bit_length() <= _KEY_BITS
            if whole or isinstance(key, str):
                self[key] = value
            else:
                self.left_out = type(key).__name__


class OrderedDict(Dict):
    """Stands for `collections.OrderedDict`, without the attributes that a state dict's has."""


class Function:
    """A name that stands for one of the caller's functions, and for nothing else."""

    def __init__(self, call: Callable[..., Any]):
        """Stands for a function, which is called with what the pickle hands over."""
        self.call = call


def read_pickle(
    file: IO[bytes], known: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any]
) -> Any:
    """Reads one pickle and leaves the file behind it.

    Time and memory are bounded by the pickle's length.

    Args:
      file: stands at the pickle's start.
      known: by module and name, what a name stands for: a `Function`, or any value.
      persistent: returns what an object outside of the pickle stands for, by its id.

    Returns:
      `Dict`s, lists, tuples, numbers, strings and bytes, what `known` and `persistent` gave, and a
      `NotRead` for each other object.

    Raises:
      Refused: it is cut off or damaged, changes what is no container, or asks for what runs
        programs.
    """
    try:
        return _Machine(known, persistent).run(file)
    except Refused:
        raise
    except Exception as error:  # A damaged pickle can raise nearly anything.
        raise Refused("its pickle is cut off or damaged") from error


class _Machine:
    def __init__(self, known: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any]):
        self._known, self._persistent = known, persistent
        self._stack: list[Any] = []
        self._below_marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        for number, (instruction, argument, _) in enumerate(pickletools.genops(file)):
            if number >= _MOST_INSTRUCTIONS:
                raise Refused("its pickle is far longer than one of weights")
            name = instruction.name
            if name == "STOP":
                return self._stack.pop()
            if name in _VALUES:
                self._stack.append(_VALUES[name](argument))
            else:
                getattr(self, _METHODS[name])(argument)
        raise Refused("its pickle is cut off")

    def _nothing(self, _) -> None:
        """PROTO and FRAME."""

    def _mark(self, _) -> None:
        self._below_marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below_marks.pop()
        return items

    def _pop(self, _) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _) -> None:
        self._since_mark()

    def _duplicate(self, _) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, index: int) -> None:
        self._memo[int(index)] = self._stack[-1]

    def _memoize(self, _) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[int(index)])

    def _list(self, _) -> None:
        items = self._since_mark()
        self._stack.append(items)

    def _tuple(self, _) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _last(self, count: int) -> None:
        if len(self._stack) < count:
            raise Refused("its pickle is damaged")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(items)

    def _tuple1(self, _) -> None:
        self._last(1)

    def _tuple2(self, _) -> None:
        self._last(2)

    def _tuple3(self, _) -> None:
        self._last(3)

    def _dict(self, _) -> None:
        items = self._since_mark()
        self._stack.append(Dict())
        self._fill(items)

    def _set(self, _) -> None:
        self._stack.append(NotRead("set"))

    def _frozen_set(self, _) -> None:
        self._since_mark()
        self._stack.append(NotRead("frozenset"))

    def _append(self, _) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self, _) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        container = self._stack[-1]
        if isinstance(container, list):
            container.extend(items)
        elif not isinstance(container, NotRead):
            raise Refused("it appends to what is no list")

    def _add_items(self, _) -> None:
        self._since_mark()
        if not isinstance(self._stack[-1], NotRead):
            raise Refused("it adds to what is no set")

    def _set_item(self, _) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([key, value])

    def _set_items(self, _) -> None:
        self._fill(self._since_mark())

    def _fill(self, items: list[Any]) -> None:
        container = self._stack[-1]
        if isinstance(container, Dict):
            container.fill(items)
        elif not isinstance(container, NotRead):
            raise Refused("it sets an item of what is no dict")

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._named(module, name))

    def _stack_global(self, _) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("its pickle is damaged")
        self._stack.append(self._named(module, name))

    def _named(self, module: str, name: str) -> Any:
        if (module, name) in self._known:
            return self._known[module, name]
        kind = f"{module}.{name}"[:80]
        of_builtins = module in ("builtins", "__builtin__") and name in _RUNNING_BUILTINS
        if of_builtins or module.partition(".")[0] in _RUNNING:
            raise Refused(
                f"it asks for {kind}, and only tensors, containers, numbers and strings are read; "
                "weights need nothing of the kind, do not open the file with other programs"
            )
        return NotRead(kind)

    def _reduce(self, _) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        self._stack.append(_called(called, arguments))

    def _new_with_names(self, _) -> None:
        named, arguments, called = (self._stack.pop() for _ in range(3))
        if named and isinstance(called, Function):
            raise Refused("its pickle is damaged")
        self._stack.append(_called(called, arguments))

    def _object(self, _) -> None:
        called, *arguments = self._since_mark()
        self._stack.append(_called(called, tuple(arguments)))

    def _instance(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        arguments = self._since_mark()
        self._stack.append(_called(self._named(module, name), tuple(arguments)))

    def _build(self, _) -> None:
        self._stack.pop()
        if not isinstance(self._stack[-1], OrderedDict | NotRead):
            raise Refused("it changes what is no container")

    def _persistent_object(self, _) -> None:
        self._stack.append(self._persistent(self._stack.pop()))


def _called(called: Any, arguments: Any) -> Any:
    if isinstance(called, NotRead):
        return called
    if not isinstance(called, Function) or not isinstance(arguments, tuple):
        raise Refused("it calls what is no function")
    return called.call(*arguments)


def _text(argument: str) -> str:
    """Returns a string of Python 2, of which `pickletools` takes each byte for a character."""
    try:
        return argument.encode("latin-1").decode()
    except UnicodeError:
        return argument


_VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        lambda number: number,
    ),
    **dict.fromkeys(
        ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), lambda text: text
    ),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), bytes),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _text),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_DICT": lambda _: Dict(),
}
"""Instructions that put a value onto the stack, and how it comes of their argument."""

_METHODS = {
    **dict.fromkeys(("PROTO", "FRAME"), "_nothing"),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), "_put"),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), "_get"),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), "_reduce"),
    "MARK": "_mark",
    "POP": "_pop",
    "POP_MARK": "_pop_mark",
    "DUP": "_duplicate",
    "MEMOIZE": "_memoize",
    "LIST": "_list",
    "TUPLE": "_tuple",
    "TUPLE1": "_tuple1",
    "TUPLE2": "_tuple2",
    "TUPLE3": "_tuple3",
    "DICT": "_dict",
    "EMPTY_SET": "_set",
    "FROZENSET": "_frozen_set",
    "APPEND": "_append",
    "APPENDS": "_appends",
    "ADDITEMS": "_add_items",
    "SETITEM": "_set_item",
    "SETITEMS": "_set_items",
    "GLOBAL": "_global",
    "STACK_GLOBAL": "_stack_global",
    "NEWOBJ_EX": "_new_with_names",
    "OBJ": "_object",
    "INST": "_instance",
    "BUILD": "_build",
    "BINPERSID": "_persistent_object",
}
"""Other instructions, by the method that carries them out. None for those that are missing here:
what a copyreg registry or a buffer beside the pickle would give."""
