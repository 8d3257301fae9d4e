"""Models of others with the operators in place of their own attention."""

import copy
import logging
import pickle

import pytest
import torch
from torch import nn

from lite_focus_detr import ops
from lite_focus_detr.integrations import accelerate

TOLERANCE = 1e-5


def attention_names(model):
    return [name for name, module in model.named_modules() if hasattr(module, "sampling_offsets")]


def tensors(output):
    """The floating-point results; what is masked in them is infinite."""
    results = [x for x in output.values() if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return [torch.nan_to_num(x, neginf=0.0, posinf=0.0) for x in results]


def outputs(model, inputs):
    with torch.no_grad():
        return tensors(model(**inputs))


def gradients(model, inputs):
    """Those of all weights, from a sum of all results with different factors."""
    loss = 0
    for result in tensors(model(**inputs)):
        if result.requires_grad:
            factors = torch.linspace(-1, 1, result.numel()).view_as(result)
            loss = loss + (result * factors).mean()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.autograd.grad(loss, weights, allow_unused=True)


def assert_close(actual, expected, tolerance=TOLERANCE):
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        if theirs is None:
            assert ours is None
            continue
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).abs().max() <= tolerance * max(1.0, theirs.abs().max())


def test_a_model_computes_the_same_and_is_restored(
    make_model, family, forbid_grid_sample, monkeypatch
):
    model, inputs = make_model(family)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected, expected_gradients = outputs(model, inputs), gradients(model, inputs)

    handle = accelerate(model)
    assert handle.replaced == attention_names(model)
    assert handle.skipped == {}
    forbid_grid_sample()
    assert_close(outputs(model, inputs), expected)
    assert_close(gradients(model, inputs), expected_gradients)

    monkeypatch.undo()
    handle.undo()
    assert handle.replaced == []
    assert all(map(torch.equal, outputs(model, inputs), expected))
    state = model.state_dict()
    assert list(state) == list(weights)
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_attention_maps_are_those_of_the_model(make_model):
    model, inputs = make_model("DeformableDetr")
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True)
        accelerate(model)
        actual = model(**inputs, output_attentions=True)
    for name in ("encoder_attentions", "cross_attentions"):
        assert len(actual[name]) > 0
        assert_close(actual[name], expected[name])


@pytest.mark.parametrize("name", ["DeformableDetr", "Mask2Former", "DFine, unequal points"])
def test_autocast_is_as_exact_as_it_was(make_model, name):
    model, inputs = make_model(name)
    exact = outputs(model, inputs)

    def rounded():
        with torch.autocast("cpu", torch.bfloat16):
            return outputs(model, inputs)

    before = rounded()
    with accelerate(model):
        after = rounded()
    for ours, theirs, wanted in zip(after, before, exact, strict=True):
        assert ours.dtype == theirs.dtype
        allowed = 2 * (theirs.float() - wanted).abs().max() + 2**-8 * wanted.abs().max()
        assert (ours.float() - wanted).abs().max() <= allowed


@pytest.mark.parametrize("name", ["Mask2Former", "DFine, unequal points"])
def test_the_attention_of_a_model_compiles_without_a_break(make_model, name, forbid_grid_sample):
    model, inputs = make_model(name)
    expected = outputs(model, inputs)
    for module in accelerate(model).replaced:
        compiled = torch.compile(model.get_submodule(module), backend="eager", fullgraph=True)
        model.set_submodule(module, compiled)
    forbid_grid_sample()
    assert_close(outputs(model, inputs), expected)


def test_a_setting_that_cannot_be_served_is_left_alone_and_said(make_model, caplog):
    model, inputs = make_model("RTDetrV2")
    first, second = attention_names(model)
    model.get_submodule(first).method = "discrete"
    expected = outputs(model, inputs)
    with caplog.at_level(logging.WARNING), accelerate(model) as handle:
        assert handle.replaced == [second]
        assert list(handle.skipped) == [first]
        assert "computes something else" in handle.skipped[first]
        assert len(caplog.records) == 1
        assert_close(outputs(model, inputs), expected)
    assert f"{first} is left as it is: " in caplog.text


def test_a_model_of_nothing_but_such_modules_stays_what_it_is(attention_call, styles):
    call = attention_call(styles["original"]())
    call.module.sampling_offsets.weight.data.fill_(float("nan"))
    call.module.sample = lambda query, value, *_: query + value.sum()
    with accelerate(call.module) as handle:
        assert handle.replaced == []
        assert list(handle.skipped) == [""]


def test_a_model_without_deformable_attention_is_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(4, 2))
    with pytest.raises(ValueError, match="Sequential has no multi-scale deformable attention"):
        accelerate(model)


def test_the_block_ends_the_acceleration_after_an_error_too(attention_call, styles):
    call = attention_call(styles["original"]())
    before = type(call.module)
    handle = accelerate(call.module)
    with pytest.raises(ZeroDivisionError), handle:
        raise ZeroDivisionError
    assert type(call.module) is before
    handle.undo()
    assert type(call.module) is before


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_modules_of_every_style_compute_the_same(
    attention_call, style, masked, coordinates, forbid_grid_sample
):
    call = attention_call(style(), masked, coordinates)
    call.module.eval()
    weights = list(call.module.parameters())
    expected = call()
    expected_gradients = torch.autograd.grad(expected.square().sum(), weights)
    accelerate(nn.ModuleList([call.module]))
    forbid_grid_sample()
    actual = call()
    assert_close([actual], [expected])
    assert_close(torch.autograd.grad(actual.square().sum(), weights), expected_gradients)


def test_dropout_and_residual_of_a_module_stay(attention_call, styles):
    call = attention_call(styles["mmcv"]())
    call.module.train()
    torch.manual_seed(3)
    expected = call(), call(identity=torch.zeros(5, 2, 16))
    accelerate(call.module)
    torch.manual_seed(3)
    assert_close([call(), call(identity=torch.zeros(5, 2, 16))], expected)


def test_a_call_that_was_not_tried_goes_to_the_code_of_the_module(attention_call, styles):
    call = attention_call(styles["other"]())
    expected = call(temperature=2.0)
    accelerate(call.module)
    assert_close([call(temperature=2.0)], [expected])
    call = attention_call(styles["mmcv"](dropout=0.0), masked=False, queries=44)
    expected = call(value=None)
    accelerate(call.module)
    assert torch.equal(call(value=None), expected)


def test_without_native_operators_the_code_of_the_module_runs(attention_call, style, monkeypatch):
    call = attention_call(style())
    call.module.eval()
    expected = call()
    handle = accelerate(call.module)
    monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")
    for name in ("fused_deformable_attention", "multi_scale_deformable_attention"):
        monkeypatch.setattr(ops, name, None)
    assert torch.equal(call(), expected)
    assert handle.replaced == [""]


def test_copies_are_accelerated_and_hooks_still_run(make_model, forbid_grid_sample):
    model, inputs = make_model("RTDetr")
    expected = outputs(model, inputs)
    kind = type(model.get_submodule(attention_names(model)[0]))
    accelerate(model)
    forbid_grid_sample()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        called = []
        attention = copied.get_submodule(attention_names(model)[0])
        attention.register_forward_hook(lambda module, *_, called=called: called.append(module))
        assert isinstance(attention, kind)
        assert type(attention).__name__ == kind.__name__
        assert_close(outputs(copied, inputs), expected)
        assert called == [attention]


def test_a_module_is_accelerated_once(attention_call, styles):
    call = attention_call(styles["original"]())
    first = accelerate(call.module)
    second = accelerate(call.module)
    assert (first.replaced, second.replaced) == ([""], [])
    assert second.skipped == {"": "it is accelerated already"}


def test_a_model_is_accelerated_once(make_model):
    # Its attention has a core module of its own, which the first call leaves to the outer one.
    model, _ = make_model("DeformableDetr")
    first, second = accelerate(model), accelerate(model)
    assert second.replaced == []
    assert second.skipped == dict.fromkeys(first.replaced, "it is accelerated already")


def test_a_forward_of_the_instance_is_left_alone(attention_call, styles):
    call = attention_call(styles["original"]())
    call.module.forward = call.module.forward
    assert accelerate(call.module).skipped == {"": "its forward was replaced before"}


def test_random_numbers_of_the_caller_are_not_used(attention_call, styles):
    call = attention_call(styles["mmcv"]())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    accelerate(call.module)
    assert torch.equal(torch.rand(3), expected)


def test_grad_mode_and_default_device_of_the_caller_do_not_matter(attention_call, styles):
    call = attention_call(styles["original"]())
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu"):
        assert accelerate(call.module).replaced == [""]
