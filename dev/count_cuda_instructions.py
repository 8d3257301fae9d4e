"""Count the instructions of some CUDA kernels and model the L1 cache of the forward kernel.

    python dev/count_cuda_instructions.py

Nothing here needs a GPU. The counts are those of the machine code for compute capability 9.0, which
nvcc compiles and a disassembler of CUDA or Triton shows; a step of a list is what a tile does for
each corner that adds to the gradient of a pixel. The cache is a model: least recently used lines of
one multiprocessor whose warps run in step, for the points of ``benchmark op`` in the encoder of an
image of 800 x 1333 pixels. The mapping in which a block has two queries and all heads is for
comparison.
"""

# ruff: noqa: T201
from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor

from lite_focus_detr.tools.benchmark.operators import HEADS, QUERIES, SHAPES, make_inputs

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = "sm_90"
FORWARD, TILE = "deform_attn_kernel", "deform_attn_backward_tile_kernel"
#: Kernels by name: template, stored type, channels of a thread, where attention comes from.
KERNELS = {
    "multi-scale": (FORWARD, "float", 4, "kGiven"),
    "multi-scale, half": (FORWARD, "__half", 8, "kGiven"),
    "key-aware, key = value": (FORWARD, "float", 4, "kValue"),
    "key-aware": (FORWARD, "float", 4, "kKey"),
    "multi-scale, gradients": (TILE, "float", 4, "kGiven"),
    "key-aware, gradients": (TILE, "float", 4, "kKey"),
}
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]+)\*/\s+(.+?);", re.MULTILINE)
#: H100 and H200: multiprocessors, and lines of 128 bytes of L1 beside shared memory.
MULTIPROCESSORS, CACHE_LINES = 132, 124 * 1024 // 128
#: Of the forward kernel on a multiprocessor at once; its registers allow no more.
RESIDENT_WARPS, ITEMS_OF_WARP = 48, 4


class Count(NamedTuple):
    """The instructions of a kernel."""

    all: int
    list_step: int | None  #: of a tile; None where there is none


def find_tools() -> tuple[str, str] | None:
    """nvcc and cuobjdump, None if one of them is missing."""
    folders = [Path("/usr/local/cuda/bin")]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        folders.append(Path(triton.origin).parent / "backends/nvidia/bin")

    def find(name: str) -> str | None:
        paths = (shutil.which(name), *(shutil.which(name, path=folder) for folder in folders))
        return next(filter(None, paths), None)

    nvcc, disassembler = find("nvcc"), find("cuobjdump")
    return None if nvcc is None or disassembler is None else (nvcc, disassembler)


def count_instructions(names: Iterable[str], tools: tuple[str, str]) -> dict[str, Count]:
    """The counts of kernels by name; they are compiled for this."""
    nvcc, disassembler = tools
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            template, stored, vector, scores = KERNELS[name]
            tiled = "true" if template == TILE else "false"
            traits = f"Traits<{stored}, 32, 16, {vector}, true, {tiled}>"
            source, binary = Path(folder, "kernel.cu"), Path(folder, "kernel.cubin")
            source.write_text(
                '#include "cuda/attention.cuh"\n'
                "namespace lite_focus {\n"
                "const void* kernel() {\n"
                f"  return reinterpret_cast<const void*>({template}<{traits}, Scores::{scores}>);\n"
                "}\n}\n"
            )
            command = [nvcc, "-std=c++17", "-O3", f"-arch={ARCHITECTURE}", "-cubin"]
            command += [f"-I{ROOT / 'kernels'}", str(source), "-o", str(binary)]
            subprocess.run(command, check=True, capture_output=True)
            listing = subprocess.run(
                [disassembler, "-sass", str(binary)], check=True, capture_output=True, text=True
            ).stdout
            counts[name] = count_listing(listing)
    return counts


def count_listing(listing: str) -> Count:
    """The counts of a disassembled kernel. What fills the last line of the code does not count."""
    code = [(int(address, 16), text) for address, text in INSTRUCTION.findall(listing)]
    code = [(address, text) for address, text in code if not text.startswith("NOP")]
    loops = []
    for address, text in code:
        target = re.search(r"BRA\S*\s.*?(0x[0-9a-f]+)", text)
        if target is not None and int(target[1], 16) <= address:
            loops.append((int(target[1], 16), address))
    trap = [loop for loop in loops if loop[0] == loop[1]]
    steps = []
    for first, last in loops:
        body = [text for address, text in code if first <= address <= last]
        # Only the lists read whole rows and exchange nothing.
        reads = any("LDG.E.128" in text for text in body) and any("LDS" in text for text in body)
        if reads and not any("SHFL" in text or "BAR" in text for text in body):
            steps.append(len(body))
    has_lists = any("ATOMS.CAS" in text for _, text in code)
    return Count(len(code) - len(trap), min(steps) if has_lists and steps else None)


def corner_lines() -> Tensor:
    """The line of L1 that each corner reads, (Q, M, 64); -1 outside of its map."""
    locations = make_inputs(QUERIES["encoder"], torch.device("cpu"), torch.float32).locations[0]
    lines, start = [], 0
    for level, (height, width) in enumerate(SHAPES):
        size = torch.tensor((width, height))
        low = (locations[:, :, level] * size - 0.5).floor().long()
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            x, y = low[..., 0] + dx, low[..., 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            # In (S, M, D) a pixel of a head of 32 floats is a line.
            token = start + y * width + x
            head = torch.arange(HEADS)[:, None]
            lines.append(torch.where(inside, token * HEADS + head, -1))
        start += height * width
    # Points by level, corners of a point side by side.
    by_level = torch.stack(lines, -1).unflatten(-1, (len(SHAPES), 4))
    return by_level.transpose(2, 3).flatten(2)


def blocks_of_tiles() -> Iterator[list[tuple[int, int]]]:
    """Queries and head of each block, one head of a tile of 8 x 8 queries, in their order."""
    for head in range(HEADS):
        start = 0
        for height, width in SHAPES:
            for top in range(0, height, 8):
                for left in range(0, width, 8):
                    yield [
                        (start + y * width + x, head)
                        for y in range(top, min(top + 8, height))
                        for x in range(left, min(left + 8, width))
                    ]
            start += height * width


def blocks_of_all_heads() -> Iterator[list[tuple[int, int]]]:
    """The same for blocks of two queries and all heads."""
    for query in range(0, QUERIES["encoder"], 2):
        yield [
            (own, head)
            for own in range(query, min(query + 2, QUERIES["encoder"]))
            for head in range(HEADS)
        ]


def hit_rate(blocks: Sequence[list[tuple[int, int]]], lines: Tensor, waves: int = 12) -> float:
    """Share of the reads of the first multiprocessor that its L1 answers.

    Args:
        blocks: queries and heads of all blocks.
        lines: what :func:`corner_lines` returns.
        waves: how many times the multiprocessor is filled with blocks.
    """
    resident = RESIDENT_WARPS * ITEMS_OF_WARP // max(map(len, blocks))
    own = blocks[::MULTIPROCESSORS]
    cache: OrderedDict[int, None] = OrderedDict()
    reads = hits = 0
    step = max(1, len(own) // (resident * waves)) * resident
    for first in range(0, len(own) - resident + 1, step):
        # The blocks before warm the cache up.
        for begin, counted in ((first - resident, False), (first, True)):
            items = [item for block in own[max(begin, 0) : begin + resident] for item in block]
            rows = [lines[query, head].tolist() for query, head in items]
            for corner in range(64):
                for row in rows:
                    line = row[corner]
                    if line < 0:
                        continue
                    reads += counted
                    if line in cache:
                        hits += counted
                        cache.move_to_end(line)
                        continue
                    cache[line] = None
                    if len(cache) > CACHE_LINES:
                        cache.popitem(last=False)
    return hits / reads


def main() -> int:
    """Exit status: 1 where the tools are missing."""
    lines = corner_lines()
    megabytes = (lines >= 0).sum().item() * 128 / 1e6
    rows = []
    for name, blocks in (
        ("one head of 8 x 8 queries", list(blocks_of_tiles())),
        ("all heads of 2 queries", list(blocks_of_all_heads())),
    ):
        rate = hit_rate(blocks, lines)
        rows.append((name, f"{rate:.0%}", f"{megabytes * (1 - rate):.0f}"))
    print(tabulate(rows, headers=["block of the forward", "hits in L1", "MB from L2"]))
    tools = find_tools()
    if tools is None:
        print("nvcc or cuobjdump is missing: no counts", file=sys.stderr)
        return 1
    counts = count_instructions(KERNELS, tools)
    table = [(name, count.all, count.list_step or "") for name, count in counts.items()]
    print()
    print(tabulate(table, headers=["kernel", "instructions", "of a step of a list"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
