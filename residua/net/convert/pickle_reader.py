"""Read pickles of weights without calling, hashing or allocating what they ask for.

torch.load(weights_only=True) calls the functions on its list, and so makes what a pickle asks for:
a numpy type of 2 GB, or a storage that the file does not hold.  Here a call of a known function is
interpreted (`pickled_values`), and all others are refused, so that a value takes a few hundred
bytes and a step of a pickle a few microseconds.
"""

import pickletools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

from residua.net.convert.pickled_values import (
    STATE_DICT_HINT,
    UNREAD,
    PickledDict,
    PickledGlobal,
    PickledStorage,
    UnusableFileError,
    interpret_call,
    interpret_storage,
)

MAX_PICKLE_STEPS = 1_000_000  # three times those of the weights of 1,202 layers
KNOWN_GLOBALS = re.compile(
    r"""
    collections\.(OrderedDict|Counter|defaultdict)
    | (builtins|__builtin__)\.(dict|list|set|frozenset|complex|bytearray)
    | argparse\.Namespace | _codecs\.encode
    | numpy\.(dtype|ndarray|dtypes\.\w+)
    | numpy\.(core|_core)\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer)
    | torch\.(Size|Tensor|device|bool|(complex|bfloat|float|bits|q?u?int)\d\w*|per_\w+)
    | torch\.(cuda\.)?(sparse\.)?[A-Z]\w*(Storage|Tensor) | torch\.storage\.\w+Storage
    | torch\._utils\._rebuild_\w+ | torch\._tensor\._rebuild_from_type_v2
    | torch\.nn\.parameter\.(Parameter|Buffer) | torch\.serialization\._get_layout
    """,
    re.VERBOSE,
)
"""Functions and classes that weight files name and that have no side effects."""


class PickleReader:
    """The state of reading a pickle: a stack of values, marks on it, and remembered values.

    `storages` are those that the pickle refers to, by key.
    """

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, PickledStorage] = {}

    def read(self, file: BinaryIO) -> object:
        """Read one pickle from the file's position on, and leave the position after it.

        Returns a tuple, list, text or number, or a value of `pickled_values`.  Raises
        UnusableFileError if the pickle would run an unknown function, or has more than
        `MAX_PICKLE_STEPS` instructions.  A damaged pickle may raise any other exception.
        """
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if number == MAX_PICKLE_STEPS:
                raise UnusableFileError(
                    f"takes more than {MAX_PICKLE_STEPS:,} pickle instructions to describe its "
                    f"tensors: {STATE_DICT_HINT}"
                )
            self.take_step(opcode.name, argument)
        return self.stack.pop()

    def take_step(self, name: str, argument: Any) -> None:
        """Carry out one instruction, called `name` as in `pickletools`."""
        if action := ACTIONS.get(name):
            action(self, argument)
        elif argument is None or name in UNSUPPORTED_STEPS:
            raise ValueError(f"it uses the instruction {name}, which weight files never contain")
        else:
            self.stack.append(argument)  # a number or a text

    def pop_marked(self) -> list[object]:
        """Remove the values above the last mark from the stack, and return them."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop_last(self, count: int) -> tuple[object, ...]:
        """Remove the last `count` values from the stack, and return them."""
        return tuple([self.stack.pop() for _ in range(count)][::-1])

    def pop_value_or_mark(self) -> None:
        (self.marks if self.marks[-1:] == [len(self.stack)] else self.stack).pop()

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def push_global(self, name: str) -> None:
        if not re.fullmatch(r"\w[\w.]{,200}", name):
            raise ValueError("a function name is not valid")
        if not KNOWN_GLOBALS.fullmatch(name):
            raise UnusableFileError(
                f"was not loaded, for safety: reading it would run {name}; {STATE_DICT_HINT}"
            )
        self.stack.append(PickledGlobal(name))

    def push_dictionary(self, values: list[object]) -> None:
        self.stack.append(PickledDict())
        self.set_items(values)

    def set_items(self, values: Sequence[object]) -> None:
        """Add the keys and values, which alternate, to the dictionary on top of the stack."""
        if isinstance(target := self.stack[-1], PickledDict):
            target.add_pairs(zip(values[::2], values[1::2], strict=True))

    def append_items(self, values: Iterable[object]) -> None:
        """Append values to the list on top of the stack."""
        if isinstance(target := self.stack[-1], list):
            target.extend(values)

    def call_global(self) -> None:
        function, arguments = self.pop_last(2)
        self.stack.append(interpret_call(function, arguments))

    def push_storage(self) -> None:
        storage = interpret_storage(*self.pop_last(1))
        self.stack.append(self.storages.setdefault(storage.key, storage))


ACTIONS: dict[str, Callable[[PickleReader, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda reader, argument: None),
    "NONE": lambda reader, _: reader.stack.append(None),
    "NEWTRUE": lambda reader, _: reader.stack.append(True),
    "NEWFALSE": lambda reader, _: reader.stack.append(False),
    "MARK": lambda reader, _: reader.marks.append(len(reader.stack)),
    "POP": lambda reader, _: reader.pop_value_or_mark(),
    "POP_MARK": lambda reader, _: reader.pop_marked(),
    "DUP": lambda reader, _: reader.stack.append(reader.stack[-1]),
    **dict.fromkeys(
        ("PUT", "BINPUT", "LONG_BINPUT"), lambda reader, argument: reader.remember(int(argument))
    ),
    "MEMOIZE": lambda reader, _: reader.remember(len(reader.memo)),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"),
        lambda reader, argument: reader.stack.append(reader.memo[int(argument)]),
    ),
    "EMPTY_TUPLE": lambda reader, _: reader.stack.append(()),
    "TUPLE1": lambda reader, _: reader.stack.append(reader.pop_last(1)),
    "TUPLE2": lambda reader, _: reader.stack.append(reader.pop_last(2)),
    "TUPLE3": lambda reader, _: reader.stack.append(reader.pop_last(3)),
    "TUPLE": lambda reader, _: reader.stack.append(tuple(reader.pop_marked())),
    "EMPTY_LIST": lambda reader, _: reader.stack.append([]),
    "LIST": lambda reader, _: reader.stack.append(reader.pop_marked()),
    "APPEND": lambda reader, _: reader.append_items(reader.pop_last(1)),
    "APPENDS": lambda reader, _: reader.append_items(reader.pop_marked()),
    "EMPTY_DICT": lambda reader, _: reader.stack.append(PickledDict()),
    "DICT": lambda reader, _: reader.push_dictionary(reader.pop_marked()),
    "SETITEM": lambda reader, _: reader.set_items(reader.pop_last(2)),
    "SETITEMS": lambda reader, _: reader.set_items(reader.pop_marked()),
    "EMPTY_SET": lambda reader, _: reader.stack.append(UNREAD),
    "FROZENSET": lambda reader, _: reader.stack.append((reader.pop_marked(), UNREAD)[1]),
    "ADDITEMS": lambda reader, _: reader.pop_marked(),
    "GLOBAL": lambda reader, argument: reader.push_global(".".join(argument.split(" ", 1))),
    "STACK_GLOBAL": lambda reader, _: reader.push_global(join_with_dots(reader.pop_last(2))),
    "REDUCE": lambda reader, _: reader.call_global(),
    "NEWOBJ": lambda reader, _: reader.call_global(),
    "BUILD": lambda reader, _: reader.pop_last(1),  # attributes, such as a state dict's _metadata
    "BINPERSID": lambda reader, _: reader.push_storage(),
}
"""What each instruction does; those that are not listed push their argument."""
UNSUPPORTED_STEPS = ("PERSID", "INST", "EXT1", "EXT2", "EXT4")


def join_with_dots(values: Iterable[object]) -> str:
    """Join two texts by a dot; raise ValueError for other values, whose text could be endless."""
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != 2:
        raise ValueError("a function name is not a string")
    return ".".join(texts)
