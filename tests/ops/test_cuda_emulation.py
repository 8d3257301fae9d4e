"""The CUDA kernels, run on the CPU in an emulation, against the reference in float64.

``cuda_emulation/`` compiles the sources of the kernels with the C++ compiler and registers them in
a namespace of their own; here they take the place of the CPU kernels below the public functions.
"""

import ctypes
import os
import random
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from lite_focus_detr import ops
from lite_focus_detr.ops import reference

ROOT = Path(__file__).parents[2]
NAMESPACE = "lite_focus_detr"
OPERATORS = (
    "ms_deform_attn",
    "ms_deform_attn_backward",
    "key_aware_deform_attn",
    "key_aware_deform_attn_backward",
)
#: Public functions and what they take in order; what is not a tensor is a constant.
ARGUMENTS = {
    "multi_scale": ("multi_scale_deformable_attention", "value shapes locations weights"),
    "key_aware": ("key_aware_deformable_attention", "query key value shapes locations"),
    "fused": ("fused_deformable_attention", "value shapes references offsets logits"),
    "fused_box": ("fused_deformable_attention", "value shapes boxes offsets logits"),
    "fused_key_aware": (
        "fused_key_aware_deformable_attention",
        "query key value shapes references offsets",
    ),
    "fused_shared_key": (
        "fused_key_aware_deformable_attention",
        "query none value shapes boxes offsets",
    ),
    "masked": (
        "key_aware_deformable_attention",
        "query key value shapes locations scale mask_outside",
    ),
    "fused_masked_shared": (
        "fused_key_aware_deformable_attention",
        "query none value shapes references offsets scale mask_outside",
    ),
}
NAMES = list(ARGUMENTS)
CONSTANTS = {"none": None, "scale": None, "mask_outside": True}
#: Four levels with 16 points in all, a number that the kernels know, and others.
FAST = {"shapes": ((10, 9), (3, 17), (2, 2), (1, 1)), "points": 4, "heads": 2}
ODD = {"shapes": ((3, 7), (1, 4), (5, 1)), "points": 5}
#: More points than a fast kernel takes.
MANY = {**ODD, "points": 11}
#: Levels and points of each whose product is not 16: those of RF-DETR, RT-DETR, Mask2Former, DINO
#: with five levels; the most that are fast, and one more.
OTHER_POINTS = [(1, 2), (3, 4), (4, 5), (4, 8), (3, 11)]
#: Queries that are the pixels of all levels, of the last ones, of the first ones, or none.
QUERIES = {
    "all_pixels": 146,
    "pixels_of_high_levels": 56,
    "pixels_of_low_level": 90,
    "pixels_of_low_levels": 141,
    "no_pixels": 5,
}


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """Path of the emulation, compiled once; skip where that cannot be done."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    toolkits = [Path(home) for home in (cpp_extension.CUDA_HOME, "/usr/local/cuda") if home]
    headers = [home / "include" for home in toolkits if (home / "include/cuda_fp16.h").exists()]
    if not headers:
        pytest.skip("no headers of the CUDA toolkit")
    target = tmp_path_factory.mktemp("cuda_emulation") / "emulation.so"
    source = Path(__file__).parent / "cuda_emulation" / "operators.cpp"
    folders = [ROOT / "kernels", *cpp_extension.include_paths(), headers[0]]
    libraries = [f"-L{folder}" for folder in cpp_extension.library_paths()]
    command = [compiler, "-O1", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden"]
    command += ["-DTORCH_TARGET_VERSION=0x020a000000000000", *(f"-I{path}" for path in folders)]
    # dev/sanitize_operators.sh has some.
    command += os.environ.get("LITE_FOCUS_DETR_EMULATION_FLAGS", "").split()
    command += [str(source), "-o", str(target), *libraries, "-ltorch_cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture(scope="module", autouse=True)
def emulated(library):
    """Run the emulated kernels in place of those for the CPU; returns the library."""
    if ops.backend("cpu") != "cpu":
        pytest.skip(f"no native operators: {ops.unavailable_reason('cpu')}")
    native = getattr(torch.ops, NAMESPACE)
    emulation = torch.library.Library(f"{NAMESPACE}_emulation", "DEF")
    for name in OPERATORS:
        emulation.define(str(getattr(native, name).default._schema).split("::")[1])
    torch.ops.load_library(str(library))
    with torch.library._scoped_library(NAMESPACE, "IMPL") as override, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in OPERATORS:
            kernel = getattr(torch.ops, f"{NAMESPACE}_emulation")
            override.impl(name, getattr(kernel, name).default, "CPU", allow_override=True)
        yield ctypes.CDLL(str(library))


@pytest.fixture
def deterministic():
    """Results that do not depend on the order of blocks."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_device(emulated):
    """Gives the emulated GPU less shared memory for a block."""
    yield emulated.set_shared_bytes
    emulated.set_shared_bytes(227 * 1024)


def run(module, name, inputs, constants=()):
    """The output and the gradients by name of an operator of ``module``; none for ``constants``."""
    function, arguments = ARGUMENTS[name]
    fields = {**inputs._asdict(), **CONSTANTS}
    leaves = {}
    for argument in arguments.split():
        if isinstance(fields[argument], torch.Tensor) and argument not in constants:
            leaves[argument] = fields[argument] = fields[argument].detach().requires_grad_()
    output = getattr(module, function)(*(fields[argument] for argument in arguments.split()))
    gradients = torch.autograd.grad(
        output, list(leaves.values()), inputs.grad_output.to(output.dtype)
    )
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def errors_of(actual, expected):
    """Largest difference of each tensor, relative to the largest value."""
    assert actual.keys() == expected.keys()
    errors = {}
    for name, tensor in actual.items():
        assert tensor.shape == expected[name].shape
        scale = max(expected[name].abs().amax().item(), 1e-30) if tensor.numel() else 1
        differences = (tensor.double() - expected[name]).abs()
        errors[name] = differences.amax().item() / scale if tensor.numel() else 0
    return errors


def assert_equals_reference(name, inputs, tolerance):
    errors = errors_of(run(ops, name, inputs), run(reference, name, inputs.to(torch.float64)))
    # Not the largest of them, which NaN is or is not.
    assert all(error <= tolerance for error in errors.values()), errors


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", QUERIES)
def test_float32_results_equal_the_reference(make_inputs, name, queries):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **FAST)
    assert_equals_reference(name, inputs.to(torch.float32), 1e-5)


@pytest.mark.parametrize("name", ["fused", "key_aware", "fused_shared_key"])
@pytest.mark.parametrize("channels", [16, 64])
def test_every_width_of_a_head_that_is_fast_equals_the_reference(make_inputs, name, channels):
    inputs = make_inputs(channels=channels, queries=QUERIES["all_pixels"], batch=1, **FAST)
    assert_equals_reference(name, inputs.to(torch.float32), 1e-5)
    inputs = make_inputs(channels=channels, queries=3, **FAST)
    assert_equals_reference(name, inputs.to(torch.float32), 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", ["pixels", "no_pixels"])
@pytest.mark.parametrize(("levels", "points"), OTHER_POINTS)
def test_other_numbers_of_points_equal_the_reference(make_inputs, name, queries, levels, points):
    sizes = {**FAST, "shapes": FAST["shapes"][:levels], "points": points}
    pixels = sum(height * width for height, width in sizes["shapes"])
    queries = pixels if queries == "pixels" else 5
    inputs = make_inputs(channels=32, queries=queries, batch=1, **sizes)
    assert_equals_reference(name, inputs.to(torch.float32), 1e-5)


@pytest.mark.parametrize("name", ["fused", "key_aware", "fused_shared_key"])
@pytest.mark.parametrize("channels", [16, 64])
@pytest.mark.parametrize("points", [3, 5])
def test_every_width_of_a_head_takes_other_numbers_of_points(make_inputs, name, channels, points):
    sizes = {**FAST, "points": points}
    for queries in (QUERIES["all_pixels"], 3):
        inputs = make_inputs(channels=channels, queries=queries, batch=1, **sizes)
        assert_equals_reference(name, inputs.to(torch.float32), 1e-5)


@pytest.mark.parametrize("name", ["multi_scale", "fused", "fused_box"])
def test_without_channels_the_gradients_of_points_are_zero(make_inputs, name):
    inputs = make_inputs(channels=0, queries=3, **FAST).to(torch.float32)
    results = run(ops, name, inputs)
    assert all(not tensor.any() for tensor in results.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 30, 71])
def test_other_sizes_equal_the_reference(make_inputs, name, channels):
    inputs = make_inputs(channels=channels, queries=3, **ODD)
    assert_equals_reference(name, inputs.to(torch.float32), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_float64_results_are_exact(make_inputs, name):
    inputs = make_inputs(channels=32, queries=5, batch=1, **FAST)
    assert_equals_reference(name, inputs, 1e-12)


@pytest.mark.parametrize(
    "name", ["fused", "fused_key_aware", "fused_shared_key", "fused_masked_shared"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("queries", ["all_pixels", "pixels_of_high_levels", "no_pixels"])
@pytest.mark.parametrize("points", [4, 5])
def test_half_precision_is_as_good_as_the_reference(make_inputs, name, dtype, queries, points):
    sizes = {**FAST, "points": points}
    if queries == "no_pixels":
        sizes = ODD if points == 4 else MANY
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **sizes)
    # Rounded references would put points on pixel centres, where the derivative jumps.
    coordinates = {"references": inputs.references.float(), "boxes": inputs.boxes.float()}
    inputs = inputs.to(dtype)._replace(**coordinates)
    exact = run(reference, name, inputs.to(torch.float64))
    allowed = errors_of(run(reference, name, inputs), exact)
    for key, error in errors_of(run(ops, name, inputs), exact).items():
        assert error <= max(2 * allowed[key], torch.finfo(dtype).eps / 2), key


def test_30_random_problems_equal_the_reference(make_inputs):
    choose = random.Random(0)
    for seed in range(30):
        shapes = [(choose.randint(1, 9), choose.randint(1, 9)) for _ in range(choose.randint(1, 4))]
        inputs = make_inputs(
            shapes,
            batch=choose.randint(0, 2),
            queries=choose.choice([0, 1, sum(height * width for height, width in shapes)]),
            heads=choose.randint(1, 2),
            channels=choose.choice([1, 16, 32, 40]),
            points=choose.choice([1, 3, 16 // len(shapes)]),
            same_offsets=choose.random() < 0.3,
            seed=seed,
        )
        assert_equals_reference(choose.choice(NAMES), inputs.to(torch.float32), 1e-5)


@pytest.mark.parametrize("queries", QUERIES)
def test_locations_that_are_no_numbers_show_in_their_head_only(make_inputs, queries):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **FAST)
    inputs = inputs.to(torch.float32)
    inputs.locations[0, 2, 0] = torch.nan
    inputs.locations[0, 3, 1] = torch.inf
    results = run(ops, "multi_scale", inputs)
    output = results["output"].unflatten(-1, (2, 32))
    assert output[0, 2, 0].isnan().all()
    assert output.isnan().sum() == 32
    assert not results["value"][:, :, 1].isnan().any()


@pytest.mark.parametrize(
    ("queries", "sizes"),
    [
        ("all_pixels", FAST),
        ("all_pixels", {**FAST, "points": 5}),
        ("no_pixels", FAST),
        ("no_pixels", {**ODD, "heads": 2}),
        ("no_pixels", {**MANY, "heads": 2}),
    ],
    ids=["tile", "tile_of_20", "fast", "odd", "many"],
)
def test_masked_points_have_no_weight_and_no_gradient(make_inputs, queries, sizes):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **sizes)
    inputs = inputs.to(torch.float32)
    inputs.locations[0, 1] = 7  # of all points of both heads
    inputs.locations[0, 2, 0, :, 2] = 7
    expected = run(ops, "masked", inputs)
    inputs.locations[0, 1] = torch.nan
    inputs.locations[0, 2, 0, :, 2, 1] = torch.nan
    results = run(ops, "masked", inputs)
    assert not results["output"][0, 1].any()
    assert not results["locations"][0, 1].any()
    assert not results["query"][0, 1].any()
    assert not results["locations"][0, 2, 0, :, 2].any()
    for name, tensor in results.items():
        assert torch.equal(tensor, expected[name]), name
    assert_equals_reference("masked", inputs, 1e-5)


def lines_of_tiles(inputs, levels):
    """Pixels that the queries of each 8 x 8 tile and head touch, counted in plain Python.

    ``levels`` are those whose pixels the queries are.
    """
    tiles = [
        (level, y // 8, x // 8)
        for level in levels
        for y in range(inputs.shapes[level][0])
        for x in range(inputs.shapes[level][1])
    ]
    lines = set()
    for level, (height, width) in enumerate(inputs.shapes):
        size = torch.tensor((width, height))
        low = (inputs.locations[0, :, :, level] * size - 0.5).floor().long().tolist()
        for query, heads in enumerate(low):
            for head, points in enumerate(heads):
                lines.update(
                    (tiles[query], head, level, y + dy, x + dx)
                    for x, y in points
                    for dy in (0, 1)
                    for dx in (0, 1)
                    if 0 <= y + dy < height and 0 <= x + dx < width
                )
    return len(lines)


@pytest.mark.parametrize("levels", [(0, 1, 2, 3), (1, 2, 3), (0,), (0, 1)], ids=str)
@pytest.mark.parametrize(
    ("points", "channels", "dtype"),
    [
        (4, 32, torch.float32),
        (1, 32, torch.float32),
        (3, 16, torch.float32),
        (5, 64, torch.bfloat16),
        (8, 32, torch.float32),
    ],
    ids=str,
)
def test_a_tile_adds_to_each_pixel_once(make_inputs, emulated, levels, points, channels, dtype):
    queries = sum(height * width for height, width in [FAST["shapes"][level] for level in levels])
    sizes = {**FAST, "points": points}
    inputs = make_inputs(channels=channels, queries=queries, batch=1, **sizes).to(torch.float32)
    maps = {key: getattr(inputs, key).to(dtype) for key in ("value", "key", "query", "grad_output")}
    inputs = inputs._replace(**maps)
    emulated.take_atomic_additions()
    run(ops, "multi_scale", inputs)
    assert emulated.take_atomic_additions() == channels * lines_of_tiles(inputs, levels)
    run(ops, "key_aware", inputs)
    assert emulated.take_atomic_additions() == 2 * channels * lines_of_tiles(inputs, levels)


@pytest.mark.parametrize("points", ["dense", "uniform"])
def test_tokens_of_a_tile_are_found_soon(emulated, points):
    # About two thirds of the 4,096 slots are taken.
    tokens = torch.arange(5000, 7800)
    if points == "uniform":
        generator = torch.Generator().manual_seed(0)
        sizes, starts = (16700, 4200, 1050, 273), (0, 16700, 20900, 21950)
        tokens = torch.cat(
            [
                start + torch.randint(size, (1024,), generator=generator)
                for size, start in zip(sizes, starts, strict=True)
            ]
        )
    tokens = tokens.int().contiguous()
    # A table that starts at the token modulo its size would search more than 1,000 of the second.
    longest = emulated.longest_search(ctypes.c_void_p(tokens.data_ptr()), tokens.numel())
    assert longest <= (3 if points == "dense" else 40)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize(
    ("queries", "sizes"),
    [
        ("all_pixels", FAST),
        ("all_pixels", {**FAST, "points": 5}),
        ("no_pixels", FAST),
        ("no_pixels", {**ODD, "heads": 2}),
        ("no_pixels", {**MANY, "heads": 2}),
    ],
    ids=["tile", "tile_of_20", "fast", "odd", "many"],
)
def test_pixels_that_are_not_finite_are_read_by_points_next_to_them_alone(
    make_inputs, name, number, queries, sizes
):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **sizes)
    inputs = inputs.to(torch.float32)
    inputs.value[0, 0] = inputs.key[0, 0] = number  # what points outside would read
    expected = run(reference, name, inputs.to(torch.float64))
    assert expected["output"].isfinite().any()
    heads = expected["output"].unflatten(-1, inputs.query.shape[-2:]).isfinite().all(-1)
    for key, actual in run(ops, name, inputs).items():
        wanted = expected[key]
        if key in ("locations", "offsets", "references", "boxes"):
            # Of a head that is not finite any gradient of its points will do.
            finite_heads = heads if key in ("locations", "offsets") else heads.all(-1)
            actual, wanted = actual[finite_heads], wanted[finite_heads]
        finite = wanted.isfinite()
        assert torch.equal(actual.isfinite(), finite), key
        errors = errors_of({key: actual.where(finite, 0)}, {key: wanted.where(finite, 0)})
        assert errors[key] <= 1e-5, key


@pytest.mark.parametrize("name", ["multi_scale", "fused"])
def test_weights_that_are_no_numbers_show_where_their_points_are_outside(
    make_inputs, emulated, name
):
    inputs = make_inputs(channels=32, queries=6, batch=1, **FAST).to(torch.float32)
    for tensor in (inputs.locations, inputs.offsets):
        tensor[:, :3] += 100
    for tensor in (inputs.weights, inputs.logits):
        tensor[:, ::2, 0] = torch.nan
    expected = run(reference, name, inputs)["output"]
    assert torch.equal(run(ops, name, inputs)["output"].isnan(), expected.isnan())


@pytest.mark.parametrize("name", ["multi_scale", "key_aware"])
def test_points_on_centres_of_pixels_have_gradients_of_their_positions(make_inputs, emulated, name):
    # Powers of two: no rounding moves a point off the centre.
    shapes = ((8, 16), (4, 8), (4, 4), (2, 4))
    inputs = make_inputs(channels=32, queries=5, batch=1, **{**FAST, "shapes": shapes})
    inputs = inputs.to(torch.float32)
    sizes = torch.tensor([[width, height] for height, width in inputs.shapes])[:, None]
    pixels = (inputs.locations.clamp(0.1, 0.9) * sizes).floor()
    inputs = inputs._replace(locations=(pixels + 0.5) / sizes)
    expected = run(reference, name, inputs.to(torch.float64))["locations"]
    assert (expected != 0).float().mean() > 0.9
    actual = run(ops, name, inputs)["locations"]
    assert errors_of({"locations": actual}, {"locations": expected})["locations"] <= 1e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("points", [3, 4, 5])
def test_deterministic_gradients_equal_the_reference(make_inputs, deterministic, name, points):
    inputs = make_inputs(channels=32, queries=13, batch=1, **{**FAST, "points": points})
    assert_equals_reference(name, inputs.to(torch.float32), 1e-5)
    # Sums of very different sizes, which have units of their own.
    assert_equals_reference(name, inputs._replace(value=inputs.value * 1e-30), 1e-11)


def gradients_by_order(make_inputs, emulated, name, orders):
    """Gradients of the maps, which several blocks add to, for orders of the blocks."""
    inputs = make_inputs(
        ((4, 5), (3, 2), (2, 2), (1, 1)), channels=64, queries=24, heads=1, batch=1
    )
    inputs = inputs.to(torch.float32)
    function, arguments = ARGUMENTS[name]
    fields = {**inputs._asdict(), **CONSTANTS}
    maps = [fields[key].requires_grad_() for key in ("value", "key") if key in arguments.split()]
    output = getattr(ops, function)(*(fields[argument] for argument in arguments.split()))
    for order in orders:
        emulated.set_order(order)
        gradients = torch.autograd.grad(output, maps, inputs.grad_output, retain_graph=True)
        emulated.set_order(0)
        yield torch.stack(gradients)


@pytest.mark.parametrize("name", ["multi_scale", "key_aware"])
def test_deterministic_gradients_are_the_same_for_100_orders_of_the_blocks(
    make_inputs, emulated, deterministic, name
):
    expected, *others = gradients_by_order(make_inputs, emulated, name, range(101))
    assert all(torch.equal(gradient, expected) for gradient in others)


def test_the_fast_gradient_depends_on_the_order_of_the_blocks(make_inputs, emulated):
    # Or the test above would find nothing.
    first, second = gradients_by_order(make_inputs, emulated, "multi_scale", range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["multi_scale", "key_aware"])
def test_deterministic_gradients_show_what_is_not_finite(make_inputs, deterministic, name):
    inputs = make_inputs(channels=32, queries=5, batch=1, **FAST).to(torch.float32)
    inputs.grad_output[0, 2, 3] = torch.nan
    inputs.grad_output[0, 3, 40] = torch.inf
    expected = run(reference, name, inputs)["value"]
    actual = run(ops, name, inputs)["value"]
    assert torch.equal(actual.isfinite(), expected.isfinite())
    finite = expected.isfinite()
    assert (actual - expected)[finite].abs().max() <= 1e-5 * expected[finite].abs().max()


@pytest.mark.parametrize("name", ["multi_scale", "key_aware", "fused_shared_key"])
@pytest.mark.parametrize("queries", ["all_pixels", "no_pixels"])
def test_constant_maps_cost_no_sums(make_inputs, emulated, name, queries):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **FAST).to(torch.float32)
    expected = run(reference, name, inputs.to(torch.float64))
    emulated.take_atomic_additions()
    results = run(ops, name, inputs, constants=("key", "value"))
    assert emulated.take_atomic_additions() == 0
    assert len(results) >= 3
    errors = errors_of(results, {key: expected[key] for key in results})
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("name", ["multi_scale", "key_aware"])
@pytest.mark.parametrize("points", [4, 5])
def test_a_gpu_without_memory_for_tiles_adds_each_corner_by_itself(
    make_inputs, emulated, small_device, name, points
):
    sizes = {**FAST, "points": points}
    inputs = make_inputs(channels=32, queries=QUERIES["all_pixels"], batch=1, **sizes)
    inputs = inputs.to(torch.float32)
    emulated.take_atomic_additions()
    expected = run(ops, name, inputs)
    tiled = emulated.take_atomic_additions()
    small_device(48 * 1024)
    actual = run(ops, name, inputs)
    assert emulated.take_atomic_additions() > 2 * tiled
    errors = errors_of(actual, {key: tensor.double() for key, tensor in expected.items()})
    assert max(errors.values()) <= 1e-5, errors


def test_many_fast_points_take_smaller_blocks(make_inputs, small_device):
    inputs = make_inputs(
        channels=64, queries=QUERIES["all_pixels"], batch=1, **FAST | {"points": 8}
    )
    small_device(24_000)
    for name in ("multi_scale", "key_aware"):
        assert_equals_reference(name, inputs.to(torch.float32), 1e-5)


def test_many_points_take_smaller_blocks_or_say_what_is_missing(make_inputs, small_device):
    inputs = make_inputs(((3, 4), (2, 2)), points=100, queries=3, batch=1).to(torch.float32)
    small_device(45_000)  # enough for two items or, with keys, for one
    for name in ("multi_scale", "key_aware"):
        assert_equals_reference(name, inputs, 1e-5)
    small_device(10_000)
    with pytest.raises(RuntimeError, match=r"2 levels of 100 points need \d+ bytes .* has 10000"):
        run(ops, "multi_scale", inputs)


@pytest.mark.parametrize("name", ["fused_box", "fused_key_aware"])
def test_tensors_that_do_not_start_at_a_whole_access_equal_the_reference(make_inputs, name):
    inputs = make_inputs(channels=32, queries=5, batch=1, **FAST).to(torch.float32)
    expected = run(reference, name, inputs.to(torch.float64))
    for field in ("value", "key", "query", "offsets", "boxes", "references", "grad_output"):
        tensor = getattr(inputs, field)
        memory = tensor.new_empty(tensor.numel() + 1)
        shifted = inputs._replace(**{field: memory[1:].view(tensor.shape).copy_(tensor)})
        errors = errors_of(run(ops, name, shifted), expected)
        assert max(errors.values()) <= 1e-5, (field, errors)
