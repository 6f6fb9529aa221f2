"""The kernels of a compiled program, and the bytes that each moves, read from the program's text.

A kernel is an instruction that runs on the device: of the entry computation, and of loops, in each of their turns. It
reads its operands from the device's memory and writes its results there, except those that the compiler keeps in a
TPU's own fast memory. An operand that several kernels use is counted for each of them. Of an operand that a kernel only
takes slices of, the slices are counted. Caches are not considered.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\](\{[^}]*\})?")  # as bf16[128,55,55,96]{3,2,1,0}
IN_FAST_MEMORY = re.compile(r"S\([1-9]\d*\)")  # a memory other than the device's large one, at the end of a layout
COMPUTES_NOTHING = re.compile(
    "after-all|bitcast|constant|get-tuple-element|iota|opt-barrier|parameter|partition-id|replica-id|tuple"
)
SLICES = ("dynamic-slice", "gather", "slice")


class Kernel(NamedTuple):
    """An instruction that moves data.

    Attributes:
      name, opcode: as in the text.
      target: the library function that a custom call names; otherwise ''.
      bytes: operands and results in the device's memory, of all turns of a loop.
      product: whether it has a convolution or a matrix product.
      operations: what JAX called the operations that it does, as 'jit(train_step)/jvp(conv1)/add'.
    """

    name: str
    opcode: str
    target: str
    bytes: int
    product: bool
    operations: tuple[str, ...]


class Instruction(NamedTuple):
    """A line of the text; `value` is what stands between the parentheses, `attributes` what follows them."""

    name: str
    result: str
    opcode: str
    value: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.value)

    def attribute(self, pattern: str) -> str:
        """The group of a regular expression in the attributes; '' if there is none."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""

    @property
    def calls(self) -> str:
        """The name of a fusion's computation; '' for other instructions."""
        return self.attribute(r"calls=%?([\w.\-]+)") if self.opcode == "fusion" else ""

    @property
    def text(self) -> str:
        return f"  %{self.name} = {self.result} {self.opcode}({self.value}{self.attributes}"


Program = dict[str, dict[str, Instruction]]  # {computation: {instruction's name: instruction}}; the entry is 'ENTRY'


def parse(text: str) -> Program:
    """The computations of a compiled program. Raises ValueError if it has an instruction that is not understood."""
    program: Program = {}
    for line in text.splitlines():
        if start := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            instructions = program.setdefault("ENTRY" if start[1] else start[2], {})
        elif match := INSTRUCTION.match(line):
            name, result, opcode, rest = match.groups()
            end = _closing(rest)
            instructions[name] = Instruction(name, result, opcode, rest[:end], rest[end:])
        elif re.match(r"\s+(ROOT )?%", line):
            raise ValueError(f"an instruction of the compiled program is written in an unknown way: {line.strip()}")
    return program


def _closing(text):
    # Where the parenthesis closes that was opened just before `text`.
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return i
    raise ValueError(f"a parenthesis of the compiled program does not close: {text}")


def size(result: str, everywhere: bool = False) -> int:
    """The bytes in the device's memory, or `everywhere`, of XLA's text for an array or a tuple of arrays."""
    return sum(
        math.prod(int(n) for n in dims.split(",") if n) * int(bits or 8) // 8  # pred has no number: a byte
        for _, bits, dims, layout in ARRAY.findall(result)
        if everywhere or not IN_FAST_MEMORY.search(layout)
    )


def executed(
    program: Program, computation: str = "ENTRY", turns: int = 1, within: tuple[str, ...] = ()
) -> Iterator[tuple[Instruction, str, int, tuple[str, ...]]]:
    """Every instruction that runs: (instruction, computation, turns, the names of its loops' operations).

    Raises:
      ValueError: the program has a branch, or a loop of an unknown number of turns.
    """
    for one in program[computation].values():
        if one.opcode == "while":
            body, inner = one.attribute(r"body=%?([\w.\-]+)"), (*_operations(program, one), *within)
            yield from executed(program, body, turns * loop_turns(program, one), inner)
        elif one.opcode == "call":
            yield from executed(program, one.attribute(r"to_apply=%?([\w.\-]+)"), turns, within)
        elif one.opcode == "conditional":
            raise ValueError(f"which branch of {one.name} the compiled program takes is not known")
        else:
            yield one, computation, turns, within


def kernels(program: Program) -> Iterator[Kernel]:
    """The kernels of a program; those of a loop once, with the bytes of all turns. Raises as `executed`."""
    for one, computation, turns, within in executed(program):
        target = one.attribute(r'custom_call_target="([^"]*)"')
        done_elsewhere = one.opcode.endswith(("-done", "-update")) and one.opcode != "dynamic-update-slice"
        if not COMPUTES_NOTHING.fullmatch(one.opcode) and not done_elsewhere and target != "AllocateBuffer":
            moved = turns * moved_bytes(program, program[computation], one)
            product = bool(re.search("cudnn|cublas", target)) or any(
                each.opcode in ("convolution", "dot") for each in (one, *_inside(program, one))
            )
            yield Kernel(one.name, one.opcode, target, moved, product, (*_operations(program, one), *within))


def _inside(program, one):
    # The instructions of a fusion, and of the fusions in it.
    for each in program[one.calls].values() if one.calls else ():
        yield each
        yield from _inside(program, each)


def moved_bytes(program: Program, instructions: dict[str, Instruction], one: Instruction) -> int:
    """The bytes that an instruction reads and writes in the device's memory."""
    written, read = size(one.result), [size(instructions[name].result) for name in one.operands]
    if one.opcode == "slice-start":  # its result is (operands, slice, a flag); a TPU loads slices ahead of their use
        slice_and_flag = one.result.partition("), ")[2]
        return size(slice_and_flag.rpartition(", ")[0], everywhere=True) + size(slice_and_flag)
    if one.opcode.endswith("-start") and one.opcode != "all-reduce-start":  # its result holds its operands, too
        return written
    if one.opcode in SLICES:
        return 2 * written
    if one.opcode == "dynamic-update-slice":  # in place: only the part that changes is read and written
        return 2 * read[1]
    inside = program[one.calls] if one.calls else {}
    for parameter in (each for each in inside.values() if each.opcode == "parameter"):
        number, users = int(parameter.value), [user for user in inside.values() if parameter.name in user.operands]
        if users and all(user.opcode in SLICES and user.operands[0] == parameter.name for user in users):
            read[number] = min(read[number], sum(size(user.result) for user in users))
        for user in users:
            if user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
                part = size(inside[user.operands[1]].result)
                written -= read[number] - part
                read[number] = part
    return written + sum(read)


def loop_turns(program: Program, loop: Instruction) -> int:
    """How often a loop's body runs. Raises ValueError if the program does not tell."""
    if known := loop.attribute(r'known_trip_count"?:\{"?n"?:"?(\d+)'):
        return int(known)
    condition = program[loop.attribute(r"condition=%?([\w.\-]+)")].values()
    limits = [int(one.value) for one in condition if one.opcode == "constant" and "s32[]" in one.result]
    counts_up = [one for one in condition if one.opcode == "compare" and "direction=LT" in one.attributes]
    if len(limits) != 1 or len(counts_up) != 1:  # it counts from 0 to below the limit, as JAX's loops do
        raise ValueError(f"how often the loop {loop.name} of the compiled program runs is not known")
    return limits[0]


def _operations(program, one):
    # The kernel's own first: XLA names a fusion after its last operation, or not at all.
    for instruction in (one, *reversed(list(_inside(program, one)))):
        if name := instruction.attribute(r'op_name="([^"]*)"'):
            yield name


def by_dtype(program: Program) -> collections.Counter[str]:
    """How many results of all instructions have each dtype."""
    results = (one.result for instructions in program.values() for one in instructions.values())
    return collections.Counter(kind + bits for result in results for kind, bits, *_ in ARRAY.findall(result))
