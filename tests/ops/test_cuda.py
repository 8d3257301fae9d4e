"""The operators on a GPU; PyTorch, pytest and the built libraries are all that is needed:

    pytest --confcutdir=tests/ops tests/ops/test_cuda.py

No GPU was available when these tests were written. ``LITE_FOCUS_DETR_TEST_DEVICE=cpu`` runs them on
the kernels for the CPU, but for those that are about a GPU itself: it tests the tests.
"""

import contextlib
import os

import pytest
import torch

from lite_focus_detr import ops
from lite_focus_detr.ops import reference

pytestmark = pytest.mark.gpu

DEVICE = os.environ.get("LITE_FOCUS_DETR_TEST_DEVICE", "cuda")
#: Public functions and what they take in order; what is not a tensor is a constant.
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
    "fused_masked": (
        "fused_key_aware_deformable_attention",
        "query key value shapes references offsets scale mask_outside",
    ),
    "fused_masked_shared": (
        "fused_key_aware_deformable_attention",
        "query none value shapes boxes offsets scale mask_outside",
    ),
}
NAMES = list(ARGUMENTS)
CONSTANTS = {"none": None, "scale": None, "mask_outside": True}
#: Levels with 16 points in all, a number that the kernels know, and others.
FAST = {"shapes": ((10, 9), (3, 17), (2, 2), (1, 1)), "points": 4}
LAYOUTS = {
    "16_points": FAST,
    "one_level": {"shapes": ((7, 9),), "points": 16},
    "20_points": {"shapes": ((6, 5), (3, 7), (5, 3), (3, 3), (6, 3)), "points": 4},
    "2_points": {"shapes": ((7, 9),), "points": 2},
    "12_points": {"shapes": ((6, 5), (3, 7), (5, 3)), "points": 4},
    "33_points": {"shapes": ((6, 5), (3, 7), (5, 3)), "points": 11},
    "15_points": {"shapes": ((3, 7), (1, 4), (5, 1)), "points": 5},
}
#: Queries that are the pixels of all levels, of the last ones, of the first ones, or none.
QUERIES = {"all": 146, "high": 56, "low": 90, "two_low": 141, "none": 5}
#: An image of 800 x 1333 pixels; a smaller one where there is no GPU.
LARGE = ((100, 167), (50, 84), (25, 42), (13, 21)) if DEVICE == "cuda" else FAST["shapes"]

only_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="about a GPU itself")


@pytest.fixture(autouse=True)
def device():
    """The device under test; skips where there is none. A GPU without kernels is a failure."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU: torch.cuda.is_available() is false")
    if ops.backend(DEVICE) == "reference":
        pytest.fail(f"no kernels for {DEVICE}: {ops.unavailable_reason(DEVICE)}")
    return torch.device(DEVICE)


def make_float32(make_inputs, device, **sizes):
    """Inputs of the sizes of a fast kernel, on the device."""
    return move(make_inputs(channels=32, **{**FAST, **sizes}).to(torch.float32), device)


def move(inputs, device):
    """The same inputs on another device."""
    return inputs._replace(
        **{
            name: value.to(device)
            for name, value in inputs._asdict().items()
            if isinstance(value, torch.Tensor)
        }
    )


def arguments_of(name, inputs, constants=()):
    """Arguments of an operator, and those that have a gradient by name."""
    fields = {**inputs._asdict(), **CONSTANTS}
    leaves = {}
    for argument in ARGUMENTS[name][1].split():
        if isinstance(fields[argument], torch.Tensor) and argument not in constants:
            leaves[argument] = fields[argument] = fields[argument].detach().requires_grad_()
    return [fields[argument] for argument in ARGUMENTS[name][1].split()], leaves


def run(module, name, inputs, constants=()):
    """The output and the gradients by name of an operator of ``module``, on the CPU."""
    arguments, leaves = arguments_of(name, inputs, constants)
    output = getattr(module, ARGUMENTS[name][0])(*arguments)
    gradients = torch.autograd.grad(
        output, list(leaves.values()), inputs.grad_output.to(output.dtype)
    )
    results = {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}
    return {key: tensor.cpu() for key, tensor in results.items()}


def errors_of(actual, expected):
    """Largest difference of each tensor, relative to the largest value."""
    assert actual.keys() == expected.keys()
    errors = {}
    for name, tensor in actual.items():
        assert tensor.shape == expected[name].shape
        if tensor.numel() == 0:
            continue
        scale = max(expected[name].abs().max().item(), 1e-30)
        errors[name] = (tensor.double() - expected[name].double()).abs().max().item() / scale
    return errors


def assert_close(actual, expected, tolerance):
    errors = errors_of(actual, expected)
    # Not the largest of them, which NaN is or is not.
    assert all(error <= tolerance for error in errors.values()), errors


def assert_equals_reference(name, inputs, device, tolerance=1e-5):
    expected = run(reference, name, inputs.to(torch.float64))
    assert_close(run(ops, name, move(inputs, device)), expected, tolerance)


@contextlib.contextmanager
def determinism(exact):
    """Whether results are the same in every run."""
    torch.use_deterministic_algorithms(exact)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def deterministic():
    """Results that are the same in every run."""
    with determinism(True):
        yield


@only_cuda
def test_the_kernels_for_cuda_are_used(device):
    assert ops.backend(device) == "cuda"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", QUERIES)
def test_float32_results_equal_the_reference(make_inputs, device, name, queries):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], **FAST)
    assert_equals_reference(name, inputs.to(torch.float32), device)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 16, 30, 64, 71])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_sizes_equal_the_reference(make_inputs, device, name, channels, layout):
    shapes = LAYOUTS[layout]["shapes"]
    for queries in (3, sum(height * width for height, width in shapes)):
        inputs = make_inputs(channels=channels, queries=queries, heads=2, **LAYOUTS[layout])
        assert_equals_reference(name, inputs.to(torch.float32), device)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_float64_results_are_exact(make_inputs, device, name, layout):
    assert_equals_reference(name, make_inputs(channels=32, **LAYOUTS[layout]), device, 1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [16, 30, 32, 64])
def test_half_precision_is_as_good_as_the_reference(make_inputs, device, name, dtype, channels):
    inputs = make_inputs(channels=channels, queries=QUERIES["all"], batch=1, **FAST)
    # Rounded coordinates would lie on centres of pixels, where the derivative jumps.
    exact = ("locations", "references", "boxes")
    inputs = inputs.to(dtype)._replace(**{key: getattr(inputs, key).float() for key in exact})
    expected = run(reference, name, inputs.to(torch.float64))
    allowed = errors_of(run(reference, name, inputs), expected)
    for key, error in errors_of(run(ops, name, move(inputs, device)), expected).items():
        assert error <= max(2 * allowed[key], torch.finfo(dtype).eps), key


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"channels": 0}], ids=str)
def test_nothing_gives_nothing(make_inputs, device, sizes):
    inputs = make_inputs(**{"channels": 32, **FAST, **sizes}).to(torch.float32)
    # The scale of dot products of no channels is 1 / 0.
    has_dots = "channels" not in sizes
    for name in NAMES if has_dots else ["multi_scale", "fused", "fused_box"]:
        assert_equals_reference(name, inputs, device)


@pytest.mark.parametrize("name", ["multi_scale", "key_aware"])
@pytest.mark.parametrize("queries", ["all", "none"])
def test_locations_at_infinity_and_no_numbers(make_inputs, device, name, queries):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **FAST)
    inputs = inputs.to(torch.float32)
    clean = run(ops, name, move(inputs, device))["output"].unflatten(-1, (3, 32))
    inputs.locations[0, 2, 0] = torch.nan
    inputs.locations[0, 3, 1] = torch.inf
    inputs.locations[0, 4, 1] = -1e30
    output = run(ops, name, move(inputs, device))["output"].unflatten(-1, (3, 32))
    assert output[0, 2, 0].isnan().all()
    assert output.isnan().sum() == 32
    assert not output[0, 3, 1].any()
    assert not output[0, 4, 1].any()
    assert torch.equal(output[0, 5:], clean[0, 5:])


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("fused")])
@pytest.mark.parametrize("queries", ["all", "none"])
def test_offsets_that_are_the_same_on_all_levels(make_inputs, device, name, queries):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], same_offsets=True, **FAST)
    assert_equals_reference(name, inputs.to(torch.float32), device)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("queries", ["all", "none"])
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "deterministic"])
def test_pixels_that_are_not_finite_are_read_by_points_next_to_them_alone(
    make_inputs, device, name, number, queries, exact
):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **FAST)
    inputs = inputs.to(torch.float32)
    inputs.value[0, 0] = inputs.key[0, 0] = number  # what points outside would read
    expected = run(reference, name, inputs.to(torch.float64))
    heads = expected["output"].unflatten(-1, inputs.query.shape[-2:]).isfinite().all(-1)
    assert heads.any()
    with determinism(exact):
        results = run(ops, name, move(inputs, device))
    for key, actual in results.items():
        wanted = expected[key]
        if key in ("locations", "offsets", "references", "boxes"):
            # Of a head that is not finite any gradient of its points will do.
            finite_heads = heads if key in ("locations", "offsets") else heads.all(-1)
            actual, wanted = actual[finite_heads], wanted[finite_heads]
        assert_finite_where_expected(key, actual, wanted)


@only_cuda
@pytest.mark.parametrize("name", ["multi_scale", "key_aware"])
@pytest.mark.parametrize("queries", ["all", "none"])
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "deterministic"])
def test_gradients_of_an_output_that_are_not_finite_show(make_inputs, device, name, queries, exact):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **FAST)
    inputs = inputs.to(torch.float32)
    inputs.grad_output[0, 2, 3] = torch.nan
    inputs.grad_output[0, 3, 40] = torch.inf
    expected = run(reference, name, inputs.to(torch.float64))["value"]
    with determinism(exact):
        actual = run(ops, name, move(inputs, device))["value"]
    assert_finite_where_expected("value", actual, expected)


def assert_finite_where_expected(name, actual, expected):
    """The same numbers are finite, and these are close."""
    finite = expected.isfinite()
    assert torch.equal(actual.isfinite(), finite), name
    assert_close({name: actual.where(finite, 0)}, {name: expected.where(finite, 0)}, 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["shifted", "sliced", "head_major"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_views_give_the_same(make_inputs, device, name, layout, dtype):
    inputs = make_inputs(channels=32, queries=QUERIES["all"], **FAST).to(torch.float32)
    halves = ("value", "key", "query", "grad_output")
    inputs = inputs._replace(**{field: getattr(inputs, field).to(dtype) for field in halves})
    inputs = move(inputs, device)

    def view(tensor):
        if layout == "shifted":
            return tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)
        if layout == "sliced":
            wide = tensor.new_empty(*tensor.shape[:-1], tensor.shape[-1] + 3)
            return wide[..., : tensor.shape[-1]].copy_(tensor)
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)

    views = inputs._replace(
        **{
            field: view(tensor)
            for field, tensor in inputs._asdict().items()
            if isinstance(tensor, torch.Tensor)
        }
    )
    # Sums in another order may be rounded to the next number.
    tolerance = max(1e-5, torch.finfo(dtype).eps)
    assert_close(run(ops, name, views), run(ops, name, inputs), tolerance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", ["all", "high", "low"])
def test_a_query_more_that_makes_them_no_pixels_changes_nothing(make_inputs, device, name, queries):
    count = QUERIES[queries]
    inputs = make_inputs(channels=32, queries=count + 1, batch=1, **FAST).to(torch.float32)
    inputs.grad_output[:, -1] = 0
    inputs = move(inputs, device)
    by_query = ("query", "locations", "weights", "references", "boxes", "offsets", "logits")
    pixels = inputs._replace(
        **{key: getattr(inputs, key)[:, :-1] for key in (*by_query, "grad_output")}
    )
    expected = run(ops, name, inputs)
    for key in expected.keys() & {*by_query, "output"}:
        expected[key] = expected[key][:, :-1]
    assert_close(run(ops, name, pixels), expected, 1e-5)


@pytest.mark.parametrize(
    ("name", "locations"),
    [
        ("multi_scale", "trained"),
        ("multi_scale", "uniform"),
        ("key_aware", "trained"),
        ("key_aware", "uniform"),
        ("fused_masked_shared", "trained"),  # has offsets, which are the same in both
    ],
)
def test_an_image_of_full_size_equals_the_kernels_for_the_cpu(make_inputs, device, name, locations):
    queries = sum(height * width for height, width in LARGE)
    inputs = make_inputs(LARGE, queries=queries, heads=8, channels=32, batch=1)
    if locations == "uniform":
        inputs = inputs._replace(locations=torch.rand_like(inputs.locations))
    inputs = inputs.to(torch.float32)
    expected = run(ops, name, inputs.to(torch.float64))  # on the CPU
    # Where a point is rounded to the other side of a centre its gradient is another one.
    results = run(ops, name, move(inputs, device))
    smooth = {"output", "value", "key", "query", "weights"}
    for key in results.keys() & smooth:
        assert errors_of({key: results[key]}, {key: expected[key]})[key] <= 5e-5, key
    for key in results.keys() - smooth:
        scale = expected[key].abs().max()
        wrong = (results[key] - expected[key]).abs() > 1e-4 * scale
        assert wrong.double().mean() < 1e-4, key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", ["all", "none"])
def test_deterministic_gradients(make_inputs, device, deterministic, name, queries):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **FAST).to(torch.float32)
    assert_equals_reference(name, inputs, device)
    inputs = move(inputs, device)
    expected = run(ops, name, inputs)
    for _ in range(10):
        for key, tensor in run(ops, name, inputs).items():
            assert torch.equal(tensor, expected[key]), key


@only_cuda
@pytest.mark.parametrize("name", ["multi_scale", "key_aware"])
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "deterministic"])
def test_deterministic_gradients_alone_do_not_depend_on_the_order_of_the_queries(
    make_inputs, device, name, exact
):
    queries = sum(height * width for height, width in LARGE)
    inputs = make_inputs(LARGE, queries=queries, heads=8, channels=32, batch=1)
    order = torch.randperm(queries, generator=torch.Generator().manual_seed(0))
    by_query = ("query", "locations", "weights", "grad_output")
    mixed = inputs._replace(**{key: getattr(inputs, key)[:, order] for key in by_query})
    with determinism(exact):
        first, second = (
            run(ops, name, move(given.to(torch.float32), device)) for given in (inputs, mixed)
        )
    # The fast sums differ, or the requirement of the others would find nothing.
    for key in first.keys() & {"value", "key"}:
        assert torch.equal(first[key], second[key]) == exact, key


@only_cuda
def test_a_gradient_in_any_order_warns_where_a_warning_was_asked_for(make_inputs, device):
    inputs = make_float32(make_inputs, device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.warns(UserWarning, match="depends on the order of additions"):
            run(ops, "multi_scale", inputs)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["multi_scale", "key_aware", "fused"])
@pytest.mark.parametrize("queries", ["all", "none"])
def test_constant_maps(make_inputs, device, name, queries):
    inputs = make_inputs(channels=32, queries=QUERIES[queries], batch=1, **FAST).to(torch.float32)
    expected = run(reference, name, inputs.to(torch.float64))
    results = run(ops, name, move(inputs, device), constants=("key", "value"))
    assert_close(results, {key: expected[key] for key in results}, 1e-5)


@pytest.mark.parametrize("name", ["ms_deform_attn", "key_aware_deform_attn"])
def test_the_operators_pass_opcheck(make_inputs, device, name):
    inputs = make_float32(make_inputs, device)
    shapes = [size for shape in inputs.shapes for size in shape]
    if name == "ms_deform_attn":
        forward = (inputs.value, shapes, inputs.boxes, inputs.offsets, inputs.logits)
    else:
        forward = (
            inputs.query,
            inputs.key,
            inputs.value,
            shapes,
            None,
            inputs.locations,
            0.3,
            True,
        )
    backward = (inputs.grad_output, *forward, True, True, True)
    operators = torch.ops.lite_focus_detr
    torch.library.opcheck(getattr(operators, f"{name}_backward").default, backward)
    forward = [
        item.requires_grad_() if isinstance(item, torch.Tensor) else item for item in forward
    ]
    torch.library.opcheck(getattr(operators, name).default, tuple(forward))


def test_gradients_equal_finite_differences(make_inputs, device):
    inputs = make_inputs(((3, 4), (2, 1)), batch=1, queries=2, heads=2, channels=3, points=2)
    sizes = torch.tensor([(width, height) for height, width in inputs.shapes])[:, None]
    # Away from the centres of pixels, where the derivative jumps.
    pixels = (inputs.locations * sizes).floor() + 0.5 + 0.3
    inputs = move(inputs._replace(locations=pixels / sizes), device)
    for name in ("multi_scale", "key_aware"):
        arguments, leaves = arguments_of(name, inputs)
        names = ARGUMENTS[name][1].split()

        def call(*tensors, name=name, names=names, arguments=arguments, leaves=leaves):
            given = dict(zip(leaves, tensors, strict=True))
            fields = dict(zip(names, arguments, strict=True)) | given
            return getattr(ops, ARGUMENTS[name][0])(*(fields[key] for key in names))

        # Atomic additions in any order: the gradient may differ in the last bits.
        assert torch.autograd.gradcheck(call, [*leaves.values()], nondet_tol=1e-12)


@pytest.mark.parametrize("name", ["fused", "fused_key_aware"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_of_training_in_mixed_precision(make_inputs, device, name, dtype):
    inputs = move(
        make_inputs(channels=32, queries=QUERIES["all"], **FAST).to(torch.float32), device
    )
    projection = torch.nn.Linear(32, 32, device=device)
    optimiser = torch.optim.SGD(projection.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    losses = []
    for _ in range(3):
        with torch.autocast(device.type, dtype=dtype):
            value = projection(inputs.value)
            arguments, _ = arguments_of(name, inputs._replace(value=value))
            arguments[0 if name == "fused" else 2] = value
            output = getattr(ops, ARGUMENTS[name][0])(*arguments)
            assert output.dtype == dtype
            loss = output.float().square().mean()
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    assert losses[2] < losses[0]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_code_gives_the_same(make_inputs, device, backend):
    if backend == "inductor" and device.type == "cpu":
        pytest.skip("needs a compiler of C++ for a long time")
    inputs = move(
        make_inputs(channels=32, queries=QUERIES["all"], **FAST).to(torch.float32), device
    )

    def attend(value, references, offsets, logits):
        output = ops.fused_deformable_attention(
            value * 2, inputs.shapes, references, offsets, logits
        )
        return output.square().sum()

    tensors = (inputs.value, inputs.references, inputs.offsets, inputs.logits)
    results = []
    for function in (attend, torch.compile(attend, fullgraph=True, backend=backend)):
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        loss = function(*leaves)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@only_cuda
@pytest.mark.parametrize("name", ["multi_scale", "key_aware"])
def test_a_stream_of_its_own(make_inputs, device, name):
    inputs = move(
        make_inputs(channels=32, queries=QUERIES["all"], **FAST).to(torch.float32), device
    )
    expected = run(ops, name, inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for _ in range(3):
        with torch.cuda.stream(stream):
            # The kernels run before what they read is overwritten, or after it is there.
            late = inputs._replace(value=torch.empty_like(inputs.value))
            torch.cuda._sleep(10_000_000)
            late.value.copy_(inputs.value)
            results = run(ops, name, late)
        assert_close(results, expected, 1e-5)


@only_cuda
@pytest.mark.parametrize("name", ["multi_scale", "key_aware_shared"])
@pytest.mark.parametrize("queries", ["all", "none"])
def test_a_cuda_graph_replays_with_new_numbers(make_inputs, device, name, queries):
    sizes = {"channels": 32, "queries": QUERIES[queries], **FAST}
    inputs = move(make_inputs(**sizes).to(torch.float32), device)
    arguments, leaves = arguments_of(name, inputs)

    def step():
        output = getattr(ops, ARGUMENTS[name][0])(*arguments)
        return output, *torch.autograd.grad(output, list(leaves.values()), inputs.grad_output)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in range(3):
        other = move(make_inputs(seed=seed, **sizes).to(torch.float32), device)
        with torch.no_grad():
            for key, leaf in leaves.items():
                leaf.copy_(getattr(other, key))
        graph.replay()
        torch.cuda.synchronize()
        results = dict(zip(("output", *leaves), (tensor.cpu() for tensor in captured), strict=True))
        other = other._replace(grad_output=inputs.grad_output)
        assert_close(results, run(ops, name, other), 1e-5)


@only_cuda
def test_more_numbers_than_32_bits_count(device):
    queries, heads, channels = 2**31 // 256 + 1000, 8, 32
    free, _ = torch.cuda.mem_get_info()
    needed = queries * heads * (channels * 2 + 16 * (2 * 4 + 2)) * 1.2
    if free < needed:
        pytest.skip(f"needs {needed / 1e9:.0f} GB of memory")
    value = torch.randn(1, 100, heads, channels, device=device, dtype=torch.bfloat16)
    points = torch.rand(1, queries, heads, 1, 16, 2, device=device)
    weights = torch.full((1, queries, heads, 1, 16), 1 / 16, device=device, dtype=torch.bfloat16)
    output = ops.multi_scale_deformable_attention(value, [(10, 10)], points, weights)
    last = slice(queries - 7, queries)
    expected = ops.multi_scale_deformable_attention(
        value, [(10, 10)], points[:, last].contiguous(), weights[:, last].contiguous()
    )
    assert torch.equal(output[:, last], expected)


@only_cuda
def test_more_points_than_shared_memory_has_room_for(make_inputs, device):
    inputs = make_inputs(((3, 4), (2, 2)), points=10_000, queries=1, heads=1, batch=1)
    inputs = move(inputs.to(torch.float32), device)
    with pytest.raises(RuntimeError, match=r"2 levels of 10000 points need \d+ bytes"):
        run(ops, "multi_scale", inputs)
    # The error is not one of the device: what comes next works.
    assert torch.ones(3, device=device).sum() == 3


@only_cuda
def test_the_second_gpu(make_inputs):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    inputs = make_inputs(channels=32, queries=QUERIES["all"], **FAST).to(torch.float32)
    assert torch.cuda.current_device() == 0
    assert_equals_reference("key_aware", inputs, torch.device("cuda:1"))
