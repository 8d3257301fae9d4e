"""Limits of the CUDA kernels that need no GPU: instructions, and reads that miss the L1 cache."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "dev/count_cuda_instructions.py"


@pytest.fixture(scope="module")
def counter():
    specification = importlib.util.spec_from_file_location("count_cuda_instructions", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_forward_and_lists_have_few_instructions(counter):
    tools = counter.find_tools()
    if tools is None:
        pytest.skip("no nvcc or no cuobjdump")
    counts = counter.count_instructions(("multi-scale", "multi-scale, gradients"), tools)
    assert counts["multi-scale"].all <= 620
    assert counts["multi-scale"].list_step is None
    assert counts["multi-scale, gradients"].list_step <= 22


def test_neighbours_share_what_they_read(counter):
    lines = counter.corner_lines()
    assert counter.hit_rate(list(counter.blocks_of_tiles()), lines, waves=2) >= 0.8
    assert counter.hit_rate(list(counter.blocks_of_all_heads()), lines, waves=4) <= 0.4


def test_only_the_loop_that_reads_rows_is_a_step(counter):
    code = [
        "MOV R1, c[0x0][0x28]",
        "ATOMS.CAS R0, [R2], R3, R4",
        "LDS.64 R2, [R0]",  # 0x20: a step
        "LDG.E.128 R4, desc[UR4][R2.64]",
        "@P0 BRA 0x20",
        "LDS.64 R2, [R0]",  # 0x50: a loop over something else
        "LDG.E.64 R4, desc[UR4][R2.64]",
        "@P0 BRA 0x50",
        "EXIT",
        "BRA 0x90",
        "NOP",
    ]
    listing = "".join(
        f"        /*{16 * i:04x}*/    {text} ;   /* 0x0 */\n" for i, text in enumerate(code)
    )
    assert counter.count_listing(listing) == (9, 3)
