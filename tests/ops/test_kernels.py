"""The native operators against the reference: values, gradients, dtypes, layouts and threads."""

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lite_focus_detr import ops
from lite_focus_detr.ops import reference

pytestmark = pytest.mark.usefixtures("native")

#: What each operator takes, in order; what is not a tensor is a constant.
ARGUMENTS = {
    "multi_scale": ("multi_scale_deformable_attention", "value shapes locations weights"),
    "key_aware": ("key_aware_deformable_attention", "query key value shapes locations"),
    "key_aware_shared": ("key_aware_deformable_attention", "query none value shapes locations"),
    "fused": ("fused_deformable_attention", "value shapes references offsets logits"),
    "fused_box": ("fused_deformable_attention", "value shapes boxes offsets logits"),
    "fused_key_aware": (
        "fused_key_aware_deformable_attention",
        "query key value shapes references offsets",
    ),
    "fused_key_aware_box": (
        "fused_key_aware_deformable_attention",
        "query none value shapes boxes offsets",
    ),
    "masked": (
        "key_aware_deformable_attention",
        "query key value shapes locations scale mask_outside",
    ),
    "masked_shared": (
        "key_aware_deformable_attention",
        "query none value shapes locations scale mask_outside",
    ),
    "fused_masked": (
        "fused_key_aware_deformable_attention",
        "query key value shapes boxes offsets scale mask_outside",
    ),
    "fused_masked_shared": (
        "fused_key_aware_deformable_attention",
        "query none value shapes references offsets scale mask_outside",
    ),
}
NAMES = list(ARGUMENTS)
CONSTANTS = {"none": None, "scale": None, "mask_outside": True}
#: Sizes with a fast path in some of the kernels, and sizes without.
FAST = {"shapes": ((6, 5), (4, 3), (2, 2), (1, 1)), "points": 4}
ODD = {"shapes": ((3, 7), (1, 4), (5, 1)), "points": 5}
FEW = {"shapes": ((3, 2), (1, 4)), "points": 1}
#: Layouts of other detectors: RF-DETR, RT-DETR and Mask2Former, DINO on five levels. No side is a
#: power of two: coordinates in half precision would lie on kinks of the interpolation.
LAYOUTS = {
    "2_points": {"shapes": ((6, 5),), "points": 2},
    "8_points": {"shapes": ((6, 5), (3, 7)), "points": 4},
    "12_points": {"shapes": ((6, 5), (3, 7), (5, 3)), "points": 4},
    "16_points": FAST,
    "20_points": {"shapes": ((6, 5), (3, 7), (5, 3), (3, 3), (6, 3)), "points": 4},
    "15_points": ODD,
}


def run(module, name, inputs):
    """The output and the gradients by name of an operator of ``module``."""
    function, arguments = ARGUMENTS[name]
    fields = {**inputs._asdict(), **CONSTANTS}
    leaves = {}
    for argument in arguments.split():
        if isinstance(fields[argument], torch.Tensor):
            leaves[argument] = fields[argument] = fields[argument].detach().requires_grad_()
    output = getattr(module, function)(*(fields[argument] for argument in arguments.split()))
    grads = torch.autograd.grad(
        output, list(leaves.values()), inputs.grad_output.to(output.dtype), allow_unused=False
    )
    return output.detach(), dict(zip(leaves, grads, strict=True))


def relative_error(actual, expected):
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().max().clamp_min(1e-30)
    return ((actual.double() - expected.double()).abs().max() / scale).item()


def assert_equal_results(actual, expected, tolerance):
    output, grads = actual
    expected_output, expected_grads = expected
    assert output.shape == expected_output.shape
    assert relative_error(output, expected_output) <= tolerance
    for name, gradient in grads.items():
        assert gradient.shape == expected_grads[name].shape
        assert relative_error(gradient, expected_grads[name]) <= tolerance, name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 7, 16, 24, 30, 32, 33, 48, 64, 71])
@pytest.mark.parametrize("sizes", LAYOUTS.values(), ids=LAYOUTS)
def test_float32_results_equal_the_float64_reference(make_inputs, name, channels, sizes):
    inputs = make_inputs(channels=channels, **sizes).to(torch.float32)
    expected = run(reference, name, inputs.to(torch.float64))
    assert_equal_results(run(ops, name, inputs), expected, 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [FAST, ODD], ids=["16_points", "15_points"])
def test_float64_results_are_exact(make_inputs, name, sizes):
    inputs = make_inputs(channels=32, **sizes)
    assert_equal_results(run(ops, name, inputs), run(reference, name, inputs), 1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "sizes"),
    [(32, FAST), (30, FAST), (5, FEW), (32, LAYOUTS["12_points"]), (64, LAYOUTS["20_points"])],
    ids=["32_channels", "30_channels", "few_points", "12_points", "20_points"],
)
def test_half_precision_is_as_good_as_the_reference_on_the_same_inputs(
    make_inputs, name, dtype, channels, sizes
):
    rounded = make_inputs(channels=channels, **sizes).to(dtype)
    exact = rounded.to(torch.float64)
    inputs = rounded._replace(
        locations=rounded.locations.float(),
        references=rounded.references.float(),
        boxes=rounded.boxes.float(),
    )
    expected_output, expected_grads = run(reference, name, exact)
    reference_output, reference_grads = run(reference, name, inputs)
    output, grads = run(ops, name, inputs)
    assert output.dtype == dtype
    unit = torch.finfo(dtype).eps / 2

    def bound(allowed, expected):
        return max(2 * relative_error(allowed, expected), unit)

    assert relative_error(output, expected_output) <= bound(reference_output, expected_output)
    for key, gradient in grads.items():
        assert gradient.dtype == inputs._asdict()[key].dtype
        allowed = bound(reference_grads[key], expected_grads[key])
        # One step stores the gradients of offsets, that of a key of its own adds to them.
        allowed = max(allowed, 2 * unit) if key == "offsets" else allowed
        assert relative_error(gradient, expected_grads[key]) <= allowed, key


def test_500_random_problems_equal_the_reference(make_inputs):
    choose = random.Random(0)
    for seed in range(500):
        inputs = make_inputs(
            [(choose.randint(1, 6), choose.randint(1, 6)) for _ in range(choose.randint(1, 5))],
            batch=choose.randint(0, 2),
            queries=choose.choice([0, 1, 3, 6]),
            heads=choose.randint(1, 3),
            channels=choose.choice([1, 4, 16, 32, 40, 48, 64]),
            points=choose.randint(1, 8),
            same_offsets=choose.random() < 0.3,
            seed=seed,
        ).to(torch.float32)
        name = choose.choice(NAMES)
        expected = run(reference, name, inputs.to(torch.float64))
        assert_equal_results(run(ops, name, inputs), expected, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_many_queries_that_share_pixels_equal_the_reference(make_inputs, name):
    inputs = make_inputs(queries=150, channels=32, **FAST).to(torch.float32)
    expected = run(reference, name, inputs.to(torch.float64))
    assert_equal_results(run(ops, name, inputs), expected, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(make_inputs, name):
    inputs = make_inputs(((3, 4), (2, 1)), batch=1, queries=2, heads=2, channels=3, points=2)
    # Bilinear interpolation has kinks at pixel centres: keep the points away from them.
    sizes = torch.tensor([(width, height) for height, width in inputs.shapes])[:, None]
    pixels = (inputs.locations * sizes).floor() + 0.3
    references = (inputs.references * 2).floor() / 2 + 0.5
    boxes = torch.cat((references, torch.full_like(references, 0.5)), -1)
    inputs = inputs._replace(
        locations=(pixels + 0.4 * torch.rand_like(pixels)) / sizes,
        references=references / sizes[:, 0] / 10 + 0.02,
        boxes=boxes,
        offsets=inputs.offsets * 0.01 + 0.2,
    )
    function, arguments = ARGUMENTS[name]
    fields = {**inputs._asdict(), **CONSTANTS}
    constants = {"shapes", *CONSTANTS}
    names = [argument for argument in arguments.split() if argument not in constants]

    def call(*tensors):
        given = {**fields, **dict(zip(names, tensors, strict=True))}
        return getattr(ops, function)(*(given[argument] for argument in arguments.split()))

    leaves = [fields[argument].clone().requires_grad_() for argument in names]
    assert torch.autograd.gradcheck(call, leaves, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", [5, 150])
def test_memory_layout_does_not_matter(make_inputs, name, queries):
    inputs = make_inputs(channels=16, queries=queries, **FAST).to(torch.float32)

    def reversed_layout(tensor):
        return (
            tensor.permute(*reversed(range(tensor.dim())))
            .contiguous()
            .permute(*reversed(range(tensor.dim())))
        )

    def head_major(tensor):
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)

    expected = run(ops, name, inputs)
    strided = inputs._replace(
        **{
            field: reversed_layout(tensor)
            for field, tensor in inputs._asdict().items()
            if isinstance(tensor, torch.Tensor)
        }
    )
    assert_equal_results(run(ops, name, strided), expected, 0)
    slices = inputs._replace(value=head_major(inputs.value), key=reversed_layout(inputs.key))
    assert_equal_results(run(ops, name, slices), expected, 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_does_not_change_a_bit(make_inputs, name):
    inputs = make_inputs(queries=150, heads=5, channels=32, **FAST).to(torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            results.append(run(ops, name, inputs))
    finally:
        torch.set_num_threads(threads)
    for output, grads in results[1:]:
        assert torch.equal(output, results[0][0])
        for key, gradient in grads.items():
            assert torch.equal(gradient, results[0][1][key])


@pytest.mark.parametrize("channels", [32, 5])
@pytest.mark.parametrize("distance", [-math.inf, math.inf, -1e30, 1e30, -3e9, 1.0 + 1e-6])
def test_points_outside_contribute_nothing(make_inputs, channels, distance):
    inputs = make_inputs(channels=channels, **FAST).to(torch.float32)
    inputs = inputs._replace(locations=torch.full_like(inputs.locations, distance).mul(3))
    output, grads = run(ops, "multi_scale", inputs)
    assert not output.any()
    assert not any(gradient.any() for gradient in grads.values())


@pytest.mark.parametrize("channels", [32, 5])
@pytest.mark.parametrize("name", ["multi_scale", "key_aware_shared"])
def test_a_location_that_is_not_a_number_shows_in_its_head_only(make_inputs, channels, name):
    inputs = make_inputs(channels=channels, **FAST).to(torch.float32)
    expected, _ = run(ops, name, inputs)
    inputs.locations[1, 2, 0, 3, 1, 0] = math.nan
    output, _ = run(ops, name, inputs)
    assert output.view(2, 7, 3, channels)[1, 2, 0].isnan().all()
    assert output.isnan().sum() == channels
    assert torch.equal(output[0], expected[0])


@pytest.mark.parametrize("module", [ops, reference], ids=["native", "reference"])
@pytest.mark.parametrize("name", ["masked", "masked_shared"])
@pytest.mark.parametrize(("channels", "sizes"), [(32, FAST), (5, FAST), (32, ODD)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [-math.inf, math.inf, 1e30, 7.0, math.nan])
def test_a_head_without_a_point_inside_gives_zero_if_they_are_masked(
    make_inputs, module, name, channels, sizes, dtype, distance
):
    inputs = make_inputs(channels=channels, **sizes).to(dtype)
    output, grads = run(module, name, inputs)
    expected = output.unflatten(-1, (3, channels)), grads["locations"], grads["query"]
    inputs.locations[1, 2, 1] = distance
    output, grads = run(module, name, inputs)
    actual = output.unflatten(-1, (3, channels)), grads["locations"], grads["query"]
    for tensor, with_points in zip(actual, expected, strict=True):
        assert with_points[1, 2, 1].any()
        with_points[1, 2, 1] = 0
        torch.testing.assert_close(tensor, with_points)
    inputs.locations[:] = distance
    output, grads = run(module, name, inputs)
    assert not output.any()
    assert not any(gradient.any() for gradient in grads.values())


@pytest.mark.parametrize("name", ["masked", "masked_shared"])
@pytest.mark.parametrize("coordinate", [0, 1])
@pytest.mark.parametrize(("channels", "sizes"), [(32, FAST), (5, ODD)])
def test_masking_takes_a_location_that_is_not_a_number_for_one_outside(
    make_inputs, name, coordinate, channels, sizes
):
    inputs = make_inputs(channels=channels, **sizes).to(torch.float32)
    inputs.locations[1, 2, 0, 2, 1, coordinate] = 7
    expected = run(ops, name, inputs)
    inputs.locations[1, 2, 0, 2, 1, coordinate] = math.nan
    assert_equal_results(run(ops, name, inputs), expected, 0)
    assert_equal_results(run(reference, name, inputs), expected, 1e-5)


@pytest.mark.parametrize("masked", ["masked", "masked_shared"])
@pytest.mark.parametrize(("channels", "sizes"), [(32, FAST), (5, ODD)])
def test_masking_changes_no_bit_where_all_points_are_inside(make_inputs, masked, channels, sizes):
    inputs = make_inputs(channels=channels, **sizes).to(torch.float32)
    inputs = inputs._replace(locations=inputs.locations.sigmoid())
    plain = {"masked": "key_aware", "masked_shared": "key_aware_shared"}[masked]
    for module in (ops, reference):
        assert_equal_results(run(module, masked, inputs), run(module, plain, inputs), 0)


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_the_kernels_for_smaller_processors_pass_the_same_tests(capability):
    selected = "float32_results or half_precision or float64_results or many_queries"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", selected, __file__]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout


def test_the_tests_of_a_gpu_pass_on_the_cpu_with_pytorch_and_pytest_alone():
    code = "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split(',')))\n"
    code += "import pytest; raise SystemExit(pytest.main(sys.argv[2:]))"
    absent = "detectron2,fvcore,iopath,matplotlib,numpy,pycocotools,scipy,tabulate,timm,yaml"
    path = Path(__file__).with_name("test_cuda.py")
    options = [
        "-q",
        "-x",
        "-k",
        "not (other_sizes or opcheck or compiled)",
        f"--confcutdir={path.parent}",
        str(path),
    ]
    environment = {**os.environ, "LITE_FOCUS_DETR_TEST_DEVICE": "cpu"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-c", code, absent, *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


def test_results_equal_the_published_implementation(golden):
    shapes = golden["spatial_shapes"].tolist()
    query, key, value, locations, weights = (
        golden[name].double()
        for name in ("query", "key", "value", "sampling_locations", "attention_weights")
    )
    close = {"atol": 1e-12, "rtol": 1e-12}
    torch.testing.assert_close(
        ops.multi_scale_deformable_attention(value, shapes, locations, weights),
        golden["msda_output"],
        **close,
    )
    for name, used_key in (("kda_output", key), ("kda_shared_output", None)):
        output = ops.key_aware_deformable_attention(query, used_key, value, shapes, locations)
        torch.testing.assert_close(output, golden[name], **close)


#: What pixels may hold.
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "minus_inf": -math.inf}


def damaged(inputs, number):
    """Inputs whose maps are not finite in the first and the last pixel of each level."""
    copies = inputs._replace(value=inputs.value.clone(), key=inputs.key.clone())
    start = 0
    for height, width in inputs.shapes:
        for tensor in (copies.value, copies.key):
            tensor[0, start] = number  # the nearest one of many points outside
            tensor[1, start + height * width - 1, 0, 0] = number  # in one channel of one head
        start += height * width
    return copies


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", NOT_FINITE.values(), ids=NOT_FINITE)
@pytest.mark.parametrize(
    ("channels", "sizes", "dtype"),
    [
        (32, FAST, torch.float32),
        (64, LAYOUTS["12_points"], torch.float32),
        (5, ODD, torch.float32),
        (32, FAST, torch.float64),
    ],
    ids=["32_channels", "12_points", "odd", "float64"],
)
def test_pixels_that_are_not_finite_are_read_by_points_next_to_them_alone(
    make_inputs, name, number, channels, sizes, dtype
):
    inputs = damaged(make_inputs(channels=channels, queries=23, **sizes).to(dtype), number)
    fields = ARGUMENTS[name][1].split()
    expected_output, expected_grads = run(reference, name, inputs.to(torch.float64))
    output, grads = run(ops, name, inputs)
    assert not expected_output.isfinite().all()
    assert expected_output.isfinite().any()
    heads = expected_output.unflatten(-1, inputs.query.shape[-2:]).isfinite().all(-1)
    for key, expected in {"output": expected_output, **expected_grads}.items():
        actual = {"output": output, **grads}[key]
        if key in ("locations", "offsets", "references", "boxes"):
            # Of a head that is not finite any gradient of its points will do.
            finite_heads = heads if key in ("locations", "offsets") else heads.all(-1)
            actual, expected = actual[finite_heads], expected[finite_heads]
        finite = expected.isfinite()
        assert torch.equal(actual.isfinite(), finite), key
        assert relative_error(actual.where(finite, 0), expected.where(finite, 0)) <= 1e-5, key
    if {"weights", "logits"} & {*fields}:
        # Of a softmax of infinite logits one or the other.
        assert torch.equal(output.isnan(), expected_output.isnan())
        assert torch.equal(output.isposinf(), expected_output.isposinf())


@pytest.mark.parametrize("name", ["multi_scale", "fused"])
@pytest.mark.parametrize(("channels", "sizes"), [(32, FAST), (5, ODD)], ids=["16_points", "odd"])
def test_weights_that_are_no_numbers_show_where_their_points_are_outside(
    make_inputs, name, channels, sizes
):
    inputs = make_inputs(channels=channels, queries=6, **sizes)
    for tensor in (inputs.locations, inputs.offsets):
        tensor[:, :3] += 100
    for tensor in (inputs.weights, inputs.logits):
        tensor[:, ::2, 0] = math.nan
    expected, _ = run(reference, name, inputs.to(torch.float64))
    output, _ = run(ops, name, inputs)
    assert expected[:, ::2].isnan().any()
    assert torch.equal(output.isnan(), expected.isnan())


def test_weights_of_keys_that_are_no_numbers_show_in_the_gradient_of_a_query_far_outside(
    make_inputs,
):
    inputs = make_inputs(channels=32, queries=6, **FAST)
    inputs.query[:, 0] = math.nan
    inputs.locations[:, 0] += 100
    _, expected = run(reference, "key_aware", inputs.to(torch.float64))
    _, grads = run(ops, "key_aware", inputs)
    assert expected["query"][:, 0].isnan().all()
    assert torch.equal(grads["query"].isnan(), expected["query"].isnan())
