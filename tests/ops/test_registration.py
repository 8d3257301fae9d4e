"""The native operators under PyTorch's machinery: checks, compilation, export, derivatives."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lite_focus_detr import ops
from lite_focus_detr.ops import registration

pytestmark = pytest.mark.usefixtures("native")

SHAPES = [6, 5, 4, 3, 2, 2, 1, 1]
FORWARD = ("ms_deform_attn", "key_aware_deform_attn")


def arguments_of(inputs, name, fused):
    """Arguments of an operator and of its gradient."""
    reference = inputs.boxes if fused else None
    points = inputs.offsets if fused else inputs.locations
    if name == "ms_deform_attn":
        weights = inputs.logits if fused else inputs.weights
        forward = (inputs.value, SHAPES, reference, points, weights)
    else:
        key = None if fused else inputs.key
        forward = (inputs.query, key, inputs.value, SHAPES, reference, points, 0.3, fused)
    return forward, (inputs.grad_output, *forward, fused, True, False)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", FORWARD)
def test_the_operators_pass_opcheck(make_inputs, name, fused):
    forward, backward = arguments_of(make_inputs().to(torch.float32), name, fused)
    forward = tuple(
        item.requires_grad_() if isinstance(item, torch.Tensor) else item for item in forward
    )
    torch.library.opcheck(getattr(torch.ops.lite_focus_detr, name).default, forward)
    backward = tuple(item.detach() if isinstance(item, torch.Tensor) else item for item in backward)
    torch.library.opcheck(getattr(torch.ops.lite_focus_detr, f"{name}_backward").default, backward)


class Attention(torch.nn.Module):
    def forward(self, value, references, offsets, logits, query):
        shapes = [(6, 5), (4, 3), (2, 2), (1, 1)]
        plain = ops.fused_deformable_attention(value, shapes, references, offsets, logits)
        keyed = ops.fused_key_aware_deformable_attention(
            query, None, value, shapes, references, offsets
        )
        masked = ops.fused_key_aware_deformable_attention(
            query, query.new_ones(value.shape), value, shapes, references, offsets, None, True
        )
        return plain + keyed + masked


def attention_inputs(inputs):
    return inputs.value, inputs.references, inputs.offsets, inputs.logits, inputs.query


def test_compilation_gives_one_graph_with_the_same_gradients(make_inputs):
    tensors = attention_inputs(make_inputs().to(torch.float32))
    compiled = torch.compile(Attention(), fullgraph=True, backend="aot_eager")
    results = []
    for function in (Attention(), compiled):
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        output = function(*leaves)
        results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_export_keeps_the_operators_and_a_free_number_of_queries(make_inputs):
    tensors = attention_inputs(make_inputs().to(torch.float32))
    queries = torch.export.Dim("queries", min=2, max=100)
    dynamic = (None, {1: queries}, {1: queries}, {1: queries}, {1: queries})
    program = torch.export.export(Attention(), tensors, dynamic_shapes=(*dynamic,))
    targets = [str(node.target) for node in program.graph.nodes]
    assert "lite_focus_detr.ms_deform_attn.default" in targets
    assert "lite_focus_detr.key_aware_deform_attn.default" in targets
    other = attention_inputs(make_inputs(queries=11).to(torch.float32))
    torch.testing.assert_close(program.module()(*other), Attention()(*other))


def test_tracing_keeps_the_operators(make_inputs):
    tensors = attention_inputs(make_inputs().to(torch.float32))
    traced = torch.jit.trace(Attention(), tensors)
    assert "lite_focus_detr::ms_deform_attn" in str(traced.inlined_graph)
    torch.testing.assert_close(traced(*tensors), Attention()(*tensors))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", FORWARD)
def test_a_second_derivative_is_refused(make_inputs, name, fused):
    forward, _ = arguments_of(make_inputs(), name, fused)
    points = forward[3 if name == "ms_deform_attn" else 5].requires_grad_()
    output = getattr(torch.ops.lite_focus_detr, name)(*forward)
    (gradient,) = torch.autograd.grad(output.square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


@pytest.fixture
def determinism():
    """Sets PyTorch's wish for deterministic algorithms, and takes it back."""
    yield torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms(False)


def test_determinism_is_paid_where_it_was_asked_for_and_told_otherwise(determinism, recwarn):
    with FakeTensorMode():
        on_gpu, on_cpu = torch.empty(1, device="cuda"), torch.empty(1)
    assert not registration.wants_determinism(on_gpu)
    determinism(True)
    assert registration.wants_determinism(on_gpu)
    determinism(True, warn_only=True)
    assert not registration.wants_determinism(on_cpu)
    assert not recwarn
    with pytest.warns(UserWarning, match="depends on the order of additions"):
        assert not registration.wants_determinism(on_gpu)


@pytest.mark.parametrize("constant", [True, False])
def test_constant_maps_have_no_gradient(make_inputs, constant):
    inputs = make_inputs().to(torch.float32)
    maps = [tensor.requires_grad_(not constant) for tensor in (inputs.value, inputs.key)]
    points = inputs.locations.requires_grad_()
    plain = ops.multi_scale_deformable_attention(
        inputs.value, inputs.shapes, points, inputs.weights
    )
    keyed = ops.key_aware_deformable_attention(
        inputs.query, inputs.key, inputs.value, inputs.shapes, points
    )
    for output in (plain, keyed):
        output.backward(inputs.grad_output)
    assert points.grad is not None
    assert [tensor.grad is None for tensor in maps] == [constant, constant]


@pytest.mark.parametrize("name", FORWARD)
def test_gradients_that_are_not_wanted_are_empty(make_inputs, name):
    inputs = make_inputs().to(torch.float32)
    _, backward = arguments_of(inputs, name, False)
    operator = getattr(torch.ops.lite_focus_detr, f"{name}_backward").default
    *arguments, _, _ = backward
    expected = operator(*backward)
    actual = operator(*arguments, False, False)
    torch.library.opcheck(operator, (*arguments, False, False))
    maps = (0,) if name == "ms_deform_attn" else (1, 2)
    for i, (gradient, full) in enumerate(zip(actual, expected, strict=True)):
        assert (gradient.numel() == 0) if i in maps else torch.equal(gradient, full)


@pytest.mark.parametrize("name", ["multi_scale", "key_aware"])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_forward_derivative_is_refused_and_not_zero(make_inputs, name, recorded):
    inputs = make_inputs()
    tangent = torch.ones_like(inputs.value)

    def attend(value):
        if name == "multi_scale":
            return ops.multi_scale_deformable_attention(
                value, inputs.shapes, inputs.locations, inputs.weights
            )
        return ops.key_aware_deformable_attention(
            inputs.query, None, value, inputs.shapes, inputs.locations
        )

    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(attend, (inputs.value,), (tangent,))
    with torch.autograd.forward_ad.dual_level():
        value = torch.autograd.forward_ad.make_dual(inputs.value.requires_grad_(recorded), tangent)
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            attend(value)


def test_a_call_by_the_public_name_equals_one_through_the_dispatcher(make_inputs):
    inputs = make_inputs().to(torch.float32)
    leaves = [inputs.value, inputs.locations, inputs.weights]
    results = []
    for function in (
        ops.multi_scale_deformable_attention,
        lambda value, _, *points: torch.ops.lite_focus_detr.ms_deform_attn(
            value, SHAPES, None, *points
        ),
    ):
        value, locations, weights = (leaf.detach().requires_grad_() for leaf in leaves)
        output = function(value, inputs.shapes, locations, weights)
        with torch.no_grad():
            assert torch.equal(function(value, inputs.shapes, locations, weights), output)
        results.append(torch.autograd.grad(output, (value, locations, weights), inputs.grad_output))
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("path", ["native", "reference"])
def test_autocast_rounds_value_key_and_query_but_no_locations(make_inputs, monkeypatch, path):
    if path == "reference":
        monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")
    inputs = make_inputs().to(torch.float32)

    def run(query, key, value):
        plain = ops.multi_scale_deformable_attention(
            value, inputs.shapes, inputs.locations, inputs.weights
        )
        keyed = ops.key_aware_deformable_attention(
            query, key, value, inputs.shapes, inputs.locations
        )
        return plain, keyed

    features = (inputs.query, inputs.key, inputs.value)
    expected = run(*(x.bfloat16() for x in features))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = run(*features)
        in_half_already = run(*(x.bfloat16() for x in features))
        exact = run(*(x.double() for x in features))
    assert [x.dtype for x in outputs] == [torch.bfloat16] * 2
    assert [x.dtype for x in exact] == [torch.float64] * 2
    torch.testing.assert_close(in_half_already, expected, rtol=0, atol=0)
    # The reference rounds query and key at the end only.
    tolerance = 0 if path == "native" else 2**-6
    torch.testing.assert_close(outputs, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda value: value[0], r"value must be \(B, S, M, D\), got \(47, 3, 8\)"),
        (0, lambda value: value[:, 1:], "value has 46 tokens"),
        (0, lambda value: value.long(), "value must be float32"),
        (1, lambda shapes: shapes[:3], "spatial_shapes must list height and width"),
        (1, lambda shapes: [0, *shapes[1:]], "spatial_shapes must be positive"),
        (1, lambda shapes: [2**31, 2**31], "below 2\\^31"),
        (3, lambda points: points[..., 0], "sampling points must be"),
        (3, lambda points: points[:1], r"sampling points must have the shape \(2, 7, 3, 4, 4, 2\)"),
        (3, lambda points: points.half(), "sampling points must be float32"),
        (3, lambda points: points[:, :, :, :, :0], "at least one sampling point"),
        (4, lambda weights: weights[:, :-1], "attention weights or logits must have the shape"),
    ],
)
def test_kernels_refuse_what_does_not_fit(make_inputs, position, change, message):
    arguments = list(arguments_of(make_inputs().to(torch.float32), "ms_deform_attn", False)[0])
    arguments[position] = change(arguments[position])
    with pytest.raises((RuntimeError, NotImplementedError), match=message):
        torch.ops.lite_focus_detr.ms_deform_attn(*arguments)
