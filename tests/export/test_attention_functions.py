"""The ONNX functions of the attention operators against their specification in PyTorch."""

import onnx_ir as ir
import pytest
import torch

from lite_focus_detr.export import DIALECTS
from lite_focus_detr.export.attention_functions import DOMAIN, INPUTS, OPSET
from lite_focus_detr.export.conversion import write_attention
from lite_focus_detr.export.runtime import start_session
from lite_focus_detr.ops import reference

SHAPES = [(5, 7), (3, 4), (1, 2)]
TOKENS = sum(height * width for height, width in SHAPES)
BATCH, QUERIES, HEADS, CHANNELS, POINTS = 2, 6, 3, 4, 2
PLAIN, KEY_AWARE = INPUTS


def run(operator, dialect, tensors, **attributes):
    """Call an operator in ONNX Runtime; batch, queries and tokens are dynamic."""
    inputs, feed = [], {}
    for name, tensor in zip(INPUTS[operator], tensors, strict=True):
        if tensor is None:
            inputs.append(None)
            continue
        shape = tensor.shape if tensor.dim() == 1 else ("batch", "rows", *tensor.shape[2:])
        kind = ir.DataType.INT64 if tensor.dtype == torch.int64 else ir.DataType.FLOAT
        inputs.append(ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind)))
        feed[name] = tensor.numpy()
    options = [ir.Attr(name, *value) for name, value in attributes.items()]
    output = ir.Value(name="output", type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node(DOMAIN, operator, inputs, options, outputs=[output])
    given = [x for x in inputs if x is not None]
    graph = ir.Graph(given, [output], nodes=[node], opset_imports={"": OPSET, DOMAIN: 1}, name="g")
    model = ir.Model(graph, ir_version=10)
    write_attention(model, dialect)
    (found,) = start_session(ir.to_proto(model).SerializeToString()).run(None, feed)
    return torch.from_numpy(found)


def make_inputs(reference_size, offset_levels, *, seed=0):
    """References, some of them outside of the image, and offsets of several pixels."""
    random = torch.Generator().manual_seed(seed)
    levels = len(SHAPES)
    references = torch.rand(BATCH, QUERIES, levels, reference_size, generator=random) * 1.4 - 0.2
    offsets = torch.randn(BATCH, QUERIES, HEADS, offset_levels, POINTS, 2, generator=random) * 2
    value, key = torch.randn(2, BATCH, TOKENS, HEADS, CHANNELS, generator=random)
    logits = torch.randn(BATCH, QUERIES, HEADS, levels * POINTS, generator=random)
    query = torch.randn(BATCH, QUERIES, HEADS, CHANNELS, generator=random)
    return references, offsets, value, key, logits, query


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("reference_size", [2, 4])
@pytest.mark.parametrize("offset_levels", [1, len(SHAPES)])
def test_deformable_attention_is_that_of_the_reference(dialect, reference_size, offset_levels):
    references, offsets, value, _, logits, _ = make_inputs(reference_size, offset_levels)
    found = run(
        PLAIN, dialect, (value, torch.tensor(SHAPES).flatten(), references, offsets, logits)
    )
    expected = reference.fused_deformable_attention(value, SHAPES, references, offsets, logits)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("separate_key", [False, True])
@pytest.mark.parametrize("mask_outside", [False, True])
def test_key_aware_attention_is_that_of_the_reference(dialect, separate_key, mask_outside):
    references, offsets, value, key, _, query = make_inputs(4, len(SHAPES), seed=1)
    # One query has no point inside.
    references[0, 0] = 9.0
    key = key if separate_key else None
    arguments = (query, key, value, torch.tensor(SHAPES).flatten(), references, offsets)
    scale, masked = (ir.AttributeType.FLOAT, 0.7), (ir.AttributeType.INT, int(mask_outside))
    found = run(KEY_AWARE, dialect, arguments, scale=scale, mask_outside=masked)
    expected = reference.fused_key_aware_deformable_attention(
        query, key, value, SHAPES, references, offsets, 0.7, mask_outside
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_infinite_references_lie_outside(dialect):
    references, offsets, value, _, logits, _ = make_inputs(2, 1)
    references[:, 0] = float("inf")
    found = run(
        PLAIN, dialect, (value, torch.tensor(SHAPES).flatten(), references, offsets, logits)
    )
    assert not found[:, 0].any()
    assert found.isfinite().all()
