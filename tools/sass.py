"""The machine code of a CUDA kernel, as nvdisasm prints it: blocks, edges, and the cheapest way through that does the
work.

Which branch is the common one is not in the code. The rule: of all ways from the entry to an exit, the one with the
fewest instructions on which all of the kernel's work is done, the work being instructions that the caller counts (wide
loads and stores, multiplications of Philox, ...). What is rare (a tail word, an extreme temperature, a row that is not
aligned) is a detour, and longer, or does a part of the work in another way, and is left out. A loop is gone through
once, or as often as the caller says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

LABEL = re.compile(r"^(\.L_x_\d+):")
INSTRUCTION = re.compile(
    r"^\s+/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>.*?)\s*;"
)
TARGET = re.compile(r"`\((\.L_x_\d+)\)")
ENDS = ("BRA", "EXIT", "RET", "BRX", "JMP", "BREAK")
#: What a call counts for: more than any detour that saves it.
CALL = 100

#: The pipe of each instruction of compute capability 9.0; `issue` where no pipe is a bound.
PIPES = {
    "fma": "FFMA FADD FMUL HFMA2 HADD2 HMUL2",
    "imad": "IMAD IDP",
    "alu": "IADD3 VIADD LOP3 ISETP FSETP SEL FSEL SHF LEA VIMNMX VIADDMNMX FMNMX PRMT I2FP F2FP MOV PLOP3 IABS SGXT "
    "BMSK P2R R2P FCHK HSETP2 HMNMX2 VABSDIFF CS2R VOTE",
    "sfu": "MUFU I2F F2I F2F FRND POPC FLO BREV",
    "fp64": "DADD DMUL DFMA DSETP",
    "lsu": "LDG STG LDS STS LDL STL LD ST SHFL REDUX ATOM ATOMS ATOMG RED",
}  # fmt: skip
PIPE = {opcode: pipe for pipe, opcodes in PIPES.items() for opcode in opcodes.split()}


@dataclass(frozen=True)
class Instruction:
    guard: str
    opcode: str
    operands: str

    @property
    def pipe(self) -> str:
        return PIPE.get(self.opcode.split(".")[0], "issue")

    @property
    def may_fall_through(self) -> bool:
        """Whether the next instruction may follow: of a branch, that it has a condition."""
        name = self.opcode.split(".")[0]
        return name not in ENDS or bool(self.guard and not self.guard.startswith("@PT")) or self._has_condition()

    def _has_condition(self) -> bool:
        return self.opcode.startswith("BRA") and bool(re.match(r"!?U?P\d|UR\d|~URZ", self.operands))

    @property
    def target(self) -> str | None:
        found = TARGET.search(self.operands) if self.opcode.startswith("BRA") else None
        return found[1] if found else None


@dataclass
class Block:
    instructions: list[Instruction] = field(default_factory=list)
    successors: list[int] = field(default_factory=list)

    @property
    def cost(self) -> int:
        return len(self.instructions) + CALL * sum(i.opcode.startswith("CALL") for i in self.instructions)

    def work(self, patterns: tuple[re.Pattern[str], ...], units: tuple[int, ...]) -> tuple[int, ...]:
        counts = (sum(bool(p.match(i.opcode)) for i in self.instructions) for p in patterns)
        return tuple(count // unit for count, unit in zip(counts, units, strict=True))


def functions(disassembly: str) -> dict[str, str]:
    """The code of every kernel, by its mangled name; what `nvdisasm -c` prints."""
    parts = re.split(r"^//-+ \.text\.(\S+) -+$", disassembly, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks_of(code: str) -> list[Block]:
    """Blocks in the order of the code, the first the entry."""
    blocks, labels = [Block()], {}
    for line in code.splitlines():
        if label := LABEL.match(line):
            if blocks[-1].instructions:
                blocks.append(Block())
            labels[label[1]] = len(blocks) - 1
        elif found := INSTRUCTION.match(line):
            instruction = Instruction((found["guard"] or "").strip(), found["opcode"], found["operands"])
            blocks[-1].instructions.append(instruction)
            if instruction.opcode.split(".")[0] in ENDS:
                blocks.append(Block())
    for number, block in enumerate(blocks):
        if not block.instructions:
            continue
        last = block.instructions[-1]
        if last.target in labels:
            block.successors.append(labels[last.target])
        if last.may_fall_through and number + 1 < len(blocks):
            block.successors.append(number + 1)
    return blocks


def back_edges(blocks: list[Block]) -> set[tuple[int, int]]:
    """Edges to a block that the way to them has gone through: by these, loops turn."""
    found, state = set(), [0] * len(blocks)
    stack = [(0, iter(blocks[0].successors))]
    state[0] = 1
    while stack:
        number, successors = stack[-1]
        for successor in successors:
            if state[successor] == 1:
                found.add((number, successor))
            elif state[successor] == 0:
                state[successor] = 1
                stack.append((successor, iter(blocks[successor].successors)))
                break
        else:
            state[number] = 2
            stack.pop()
    return found


def loop_of(blocks: list[Block], latch: int, header: int) -> set[int]:
    """The blocks from which the latch is reached without the header, and the header."""
    before: dict[int, list[int]] = {}
    for number, block in enumerate(blocks):
        for successor in block.successors:
            before.setdefault(successor, []).append(number)
    loop, stack = {header, latch}, [latch]
    while stack:
        number = stack.pop()
        if number == header:
            continue
        for previous in before.get(number, []):
            if previous not in loop:
                loop.add(previous)
                stack.append(previous)
    return loop


@dataclass(frozen=True)
class Work:
    """How often `unit` instructions of one block whose opcodes match have to be gone through."""

    opcode: str
    times: int
    unit: int = 1


@dataclass(frozen=True)
class _State:
    """The cheapest way to a block with some work done: the blocks gone through, the last first, as a linked list."""

    cost: int
    work: tuple[int, ...]
    number: int
    before: _State | None

    def is_as_good_as(self, other: _State) -> bool:
        return self.cost <= other.cost and all(a >= b for a, b in zip(self.work, other.work, strict=True))

    def way(self) -> list[int]:
        numbers: list[int] = []
        state: _State | None = self
        while state is not None:
            numbers.append(state.number)
            state = state.before
        return numbers[::-1]


def _order(graph: dict[int, list[int]], start: int) -> list[int]:
    """Blocks from `start` on, each after all that lead to it."""
    order, seen, stack = [], {start}, [(start, iter(graph[start]))]
    while stack:
        number, successors = stack[-1]
        for successor in successors:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(graph[successor])))
                break
        else:
            order.append(number)
            stack.pop()
    return order[::-1]


def cheapest(
    blocks: list[Block], graph: dict[int, list[int]], start: int, ends: set[int], work: Sequence[Work]
) -> list[int]:
    """The blocks of the cheapest way from `start` to one of `ends` on which at least `work` is done."""
    patterns, units = tuple(re.compile(w.opcode) for w in work), tuple(w.unit for w in work)
    needed, done = tuple(w.times for w in work), [block.work(patterns, units) for block in blocks]
    states: dict[int, list[_State]] = {start: [_State(0, (0,) * len(needed), -1, None)]}
    best: _State | None = None
    for number in _order(graph, start):
        for state in states.pop(number, []):
            work_here = tuple(min(a + b, most) for a, b, most in zip(state.work, done[number], needed, strict=True))
            here = _State(state.cost + blocks[number].cost, work_here, number, state if state.number >= 0 else None)
            if number in ends and work_here == needed and (best is None or here.cost < best.cost):
                best = here
            for successor in graph[number]:
                others = states.get(successor, [])
                if not any(other.is_as_good_as(here) for other in others):
                    states[successor] = [other for other in others if not here.is_as_good_as(other)] + [here]
    if best is None:
        raise ValueError(f"no way through the code does this work: {work}")
    return best.way()


class Kernel:
    """One kernel's code. A number of instructions is a Counter by pipe, `all` being their sum."""

    def __init__(self, code: str) -> None:
        self.blocks = blocks_of(code)
        self.back = back_edges(self.blocks)
        self.loops = {edge: loop_of(self.blocks, *edge) for edge in self.back}
        self.exits = {n for n, b in enumerate(self.blocks) if any(i.opcode == "EXIT" for i in b.instructions)}
        self.graph = {
            number: [s for s in block.successors if (number, s) not in self.back]
            for number, block in enumerate(self.blocks)
        }
        # From where a loop turns, its end is reached too, by the test at its head.
        for (latch, header), loop in self.loops.items():
            self.graph[latch] = self.graph[latch] + [s for s in self.graph[header] if s not in loop]

    def count(self, way: list[int]) -> Counter[str]:
        instructions = [i for number in way for i in self.blocks[number].instructions]
        return Counter(i.pipe for i in instructions) + Counter(all=len(instructions))

    def through(self, work: Sequence[Work]) -> Counter[str]:
        """From the entry to an exit, loops once."""
        return self.count(cheapest(self.blocks, self.graph, 0, self.exits, work))

    def turn(self, work: Sequence[Work]) -> Counter[str]:
        """Once around the smallest loop in which the work can be done."""
        latches: dict[int, set[int]] = {}
        for latch, header in self.back:
            latches.setdefault(header, set()).add(latch)
        bodies = {h: set().union(*(self.loops[(latch, h)] for latch in of)) for h, of in latches.items()}
        for header in sorted(bodies, key=lambda header: len(bodies[header])):
            body = bodies[header]
            graph = {n: [s for s in self.graph[n] if s in body] if n in body else [] for n in self.graph}
            try:
                return self.count(cheapest(self.blocks, graph, header, latches[header], work))
            except ValueError:
                continue
        raise ValueError(f"no loop does this work: {work}")
