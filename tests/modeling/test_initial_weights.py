"""Weights before training have the distributions of the published code, in every tensor.

All upstreams end the construction of their transformer with ``xavier_uniform_`` for everything
with more than one dimension; what they set afterwards, or outside of the transformer, is listed.
"""

import math
import re

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from tests.conftest import FAMILIES

ENCODERS = ["DeformableDETR", "LiteDETR", "FocusDETR", "SparseDETR"]


def uniform(bound):
    return -bound, bound, 0.0, bound / math.sqrt(3)


def xavier(shape):
    return uniform(math.sqrt(6 / (shape[0] + shape[1]) / math.prod(shape[2:])))


def constant(value):
    return value, value, value, 0.0


def anchors():
    """Logits of uniform numbers, clamped to 3: their deviation by quadrature."""
    quantiles = (np.arange(1_000_000) + 0.5) / 1_000_000
    logits = np.clip(np.log(quantiles / (1 - quantiles)), -3, 3)
    return -3.0, 3.0, 0.0, float(logits.std())


NORMAL = (-math.inf, math.inf, 0.0, 1.0)
# Name of a tensor -> (smallest, greatest, mean, deviation), of its shape and its layer's inputs.
# The first that fits counts.
RULES = [
    (r"sampling_offsets\.weight|attention_weights\.", lambda s, n: constant(0.0)),
    (r"(value|output|query|key)_proj\.bias", lambda s, n: constant(0.0)),
    (r"self_attn\.(in_proj_bias|out_proj\.bias)", lambda s, n: constant(0.0)),
    (r"(norm\d*|input_proj\.\d\.1|scorer\.layer1\.0)\.weight", lambda s, n: constant(1.0)),
    (r"(norm\d*|input_proj\.\d\.[01]|scorer\.layer1\.0)\.bias", lambda s, n: constant(0.0)),
    (r"class_embed.*bias", lambda s, n: constant(-math.log(99))),
    (r"bbox_embed.*layers\.2\.weight", lambda s, n: constant(0.0)),
    # Outside of the transformer: PyTorch's own.
    (r"(class|bbox)_embed.*weight", lambda s, n: uniform(1 / math.sqrt(s[1]))),
    (r"level_embed|label_enc|query_embed", lambda s, n: NORMAL),
    (r"refpoint_embed", lambda s, n: anchors()),
    (r"scorer\.alpha", lambda s, n: uniform(0.3)),
    (r"reference_points\.bias", lambda s, n: constant(0.0)),
    (r"\.bias$", lambda s, n: uniform(1 / math.sqrt(n))),
    (r"", lambda s, n: xavier(s)),
]


def rule_of(name, parameters, dn):
    shape = parameters[name].shape
    if dn and "tgt_embed" in name:
        return constant(0.0)
    weight = parameters.get(name.removesuffix("bias") + "weight")
    inputs = weight.shape[1] if weight is not None and weight.dim() > 1 else 0
    return next(rule for pattern, rule in RULES if re.search(pattern, name))(shape, inputs)


def rings(num_heads, num_points, num_levels):
    """Bias of the offsets: point p lies p + 1 times the head's direction away, on every level."""
    angle = 2 * np.pi * np.arange(num_heads) / num_heads
    direction = np.stack((np.cos(angle), np.sin(angle)), -1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    steps = np.arange(1, num_points + 1)[None, None, :, None]
    rows = direction[:, None, None] * steps
    return np.broadcast_to(rows, (num_heads, num_levels, num_points, 2)).reshape(-1)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_starts_as_published(tiny_config, family, encoder):
    sizes = {
        "EMBED_DIM": 256,
        "NUM_HEADS": 8,
        "NORM_GROUPS": 32,
        "NUM_QUERIES": 300,
        "ENCODER.FFN_DIM": 512,
        "DECODER.FFN_DIM": 512,
    }
    if encoder == "LiteDETR":
        sizes.update({"ENCODER.ATTENTION": "key_aware", "DECODER.ATTENTION": "key_aware"})
    cfg = tiny_config(family, NUM_CLASSES=80, **sizes)
    cfg.MODEL.META_ARCHITECTURE = encoder
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    torch.manual_seed(0)
    model = build_model(cfg)
    parameters = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if not name.startswith("backbone.")
    }
    learned = family in ("deformable", "deformable_refine", "dn_deformable")
    for name, parameter in parameters.items():
        if name.endswith("sampling_offsets.bias"):
            np.testing.assert_allclose(parameter, rings(8, 4, 4), atol=1e-5)
            continue
        if re.search(r"bbox_embed.*layers\.2\.bias", name):
            # Without proposals the boxes of the first layer start small.
            first = name.startswith("heads.bbox_embed.0.")
            assert parameter.tolist() == [0.0, 0.0, *[-2.0 if learned and first else 0.0] * 2], name
            continue
        low, high, mean, deviation = rule_of(name, parameters, family == "dn_deformable")
        count = parameter.numel()
        # Five percent, or what chance does to so few numbers.
        slack = max(0.05, 4 * math.sqrt(0.5 / count)) * deviation
        error = max(0.05, 4 * math.sqrt(1 / count)) * deviation
        assert abs(parameter.mean().item() - mean) <= max(error, 1e-6), name
        assert abs(parameter.std(correction=0).item() - deviation) <= max(slack, 1e-6), name
        assert parameter.min() >= low - 1e-6, name
        assert parameter.max() <= high + 1e-6, name
        if count > 1000 and deviation > 0 and high < math.inf:
            assert parameter.abs().max().item() == pytest.approx(high, rel=0.02), name
