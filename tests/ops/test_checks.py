"""Messages for arguments that do not fit, whichever path computes."""

import pytest

from lite_focus_detr import ops


@pytest.fixture(params=["native", "reference"])
def path(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")


@pytest.mark.fault(area="operators", expected="refused")
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("value", lambda t: t[0], r"value must be a floating-point tensor \(B, S, M, D\)"),
        ("value", lambda t: t[:, 1:], "value of shape .* has 46 tokens, .* have 47 pixels"),
        ("value", lambda t: t.long(), "value must be a floating-point tensor"),
        ("shapes", lambda s: [], "spatial_shapes must list"),
        ("shapes", lambda s: [(0, 5), *s[1:]], "spatial_shapes must be positive"),
        ("references", lambda t: t[..., :1], "reference_points must be points .* or boxes"),
        ("references", lambda t: t[:, :, :2], "reference_points must be .* got"),
        ("offsets", lambda t: t[:, :3], r"sampling_offsets must .* \(2, 7, 3, 4, P, 2\)"),
        ("offsets", lambda t: t[:, :, :, :2], r"sampling_offsets must .* \(2, 7, 3, 4, P, 2\)"),
        ("offsets", lambda t: t[..., 0], "sampling_offsets must"),
        ("logits", lambda t: t[..., :3], r"attention_logits must .* \(2, 7, 3, 16\)"),
        ("logits", lambda t: t.to("meta"), "attention_logits .* is on meta, but value .* on cpu"),
    ],
)
def test_fused_attention_says_what_does_not_fit(make_inputs, field, change, message):
    inputs = make_inputs()
    inputs = inputs._replace(**{field: change(getattr(inputs, field))})
    with pytest.raises(ValueError, match=message):
        ops.fused_deformable_attention(
            inputs.value, inputs.shapes, inputs.references, inputs.offsets, inputs.logits
        )


@pytest.mark.fault(area="operators", expected="refused")
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("query", lambda t: t[:, :3], r"query must .* \(2, 7, 3, 8\)"),
        ("key", lambda t: t[:, :3], r"key must .* \(2, 47, 3, 8\)"),
        ("key", lambda t: t[..., :3], "key must"),
        ("locations", lambda t: t[:, :, :, :2], r"sampling_locations must .* \(2, Q, 3, 4, P, 2\)"),
    ],
)
def test_key_aware_attention_says_what_does_not_fit(make_inputs, field, change, message):
    inputs = make_inputs()
    inputs = inputs._replace(**{field: change(getattr(inputs, field))})
    with pytest.raises(ValueError, match=message):
        ops.key_aware_deformable_attention(
            inputs.query, inputs.key, inputs.value, inputs.shapes, inputs.locations
        )


@pytest.mark.fault(area="operators", expected="refused")
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("query", lambda t: t[..., :3], r"query must .* \(2, 7, 3, 8\)"),
        ("key", lambda t: t[:, :3], r"key must .* \(2, 47, 3, 8\)"),
        ("offsets", lambda t: t[:, :3], r"sampling_offsets must .* \(2, 7, 3, 4, P, 2\)"),
    ],
)
def test_fused_key_aware_attention_says_what_does_not_fit(make_inputs, field, change, message):
    inputs = make_inputs()
    inputs = inputs._replace(**{field: change(getattr(inputs, field))})
    points = (inputs.references, inputs.offsets)
    with pytest.raises(ValueError, match=message):
        ops.fused_key_aware_deformable_attention(
            inputs.query, inputs.key, inputs.value, inputs.shapes, *points
        )
