"""Focus-DETR on images of several sizes in one batch: recorded results of the published code, and
gradients of its formulas, written down here image by image."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from tests.parity.conftest import golden_files
from tests.parity.test_end_to_end import stand_in_weights

from lite_focus_detr import model_zoo, ops
from lite_focus_detr.converters import convert_state_dict
from lite_focus_detr.modeling.proposals import token_anchors

CASES = golden_files("focus_padded_batch*")


@pytest.mark.parametrize("case", CASES)
def test_memory_of_a_padded_training_batch(golden, case):
    data = golden(case)
    meta = json.loads(str(data["meta"]))
    cfg = model_zoo.get_config(meta["config"])
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.FOCUS.OBJECT_TOKENS = meta["object_tokens"]
    model = build_model(cfg).train()
    converted, _ = convert_state_dict(stand_in_weights(meta["manifest"]), cfg)
    model.load_state_dict(converted, strict=False)
    sizes = [tuple(size) for size in meta["sizes"]]
    height, width = (max(x) for x in zip(*sizes, strict=True))
    maps = {}
    for index, channels in zip((3, 4, 5), (512, 1024, 2048), strict=True):
        shape = (len(sizes), channels, -(-height // 2**index), -(-width // 2**index))
        noise = np.random.RandomState(40 + index).standard_normal(shape)
        maps[f"res{index}"] = torch.from_numpy(noise.astype(np.float32))
    model.backbone.forward = lambda images: maps

    with torch.no_grad():
        images = ImageList(torch.zeros(len(sizes), 3, height, width), sizes)
        tokens = model.build_tokens(images)
        memory = model.forward_outputs(images).memory[:, :, ::8]

    for image, (ours, theirs) in enumerate(zip(memory, data["memory_sample"], strict=True)):
        inside = ~tokens.padding_mask[image]
        expected = torch.from_numpy(theirs)[inside]
        torch.testing.assert_close(ours[inside], expected, rtol=0, atol=1e-4)


def published_encoder(model, tokens, num_objects):
    """The encoder of Focus-DETR in training, after its description: every layer gathers the best
    tokens anew, objects may be rows beyond an image's budget, and only rows within it are written.
    """
    encoder, head = model.encoder, model.proposal_head
    _, valid = token_anchors(tokens)
    projected = head.project(tokens.features + tokens.position, valid)
    foreground = encoder.scorer(projected, tokens.spatial_shapes).detach()
    foreground[tokens.padding_mask] = foreground.min()
    ratios = encoder.keep_ratios
    budgets = [int(count * ratios[0]) + 1 for count in tokens.num_valid]
    order = foreground.argsort(dim=1, descending=True, stable=True)
    valid_ratios = tokens.valid_ratios[:, None]
    output = list(tokens.features)
    for index, layer in enumerate(encoder.layers):
        count = int(max(budgets) * encoder.keep_ratios[index] / encoder.keep_ratios[0])
        attention = encoder.dual_attention[index]
        for image, budget in enumerate(budgets):
            chosen = order[image, :count]
            rows, where = output[image][chosen], tokens.position[image, chosen]
            classes = F.linear(rows, head.class_embed.weight, head.class_embed.bias).amax(-1)
            objects = (classes * foreground[image, chosen]).topk(num_objects).indices
            x, y = rows[objects] + where[objects], rows[objects]
            mha = attention.self_attn
            attended = F.multi_head_attention_forward(
                *(z[:, None] for z in (x, x, y)),
                mha.embed_dim,
                mha.num_heads,
                mha.in_proj_weight,
                mha.in_proj_bias,
                None,
                None,
                False,
                0.0,
                mha.out_proj.weight,
                mha.out_proj.bias,
            )[0][:, 0]
            rows = rows.index_copy(0, objects, attention.norm(y + attended))
            attn = layer.self_attn
            query = rows + where
            value = attn.value_proj(tokens.features[image])
            value = value.masked_fill(tokens.padding_mask[image, :, None], 0.0)
            centers = tokens.centers[image, chosen][:, None] * valid_ratios[image]
            attended = ops.reference.fused_deformable_attention(
                value.view(1, -1, attn.config.num_heads, value.shape[-1] // attn.config.num_heads),
                tokens.spatial_shapes,
                centers[None],
                attn.sampling_offsets(query).view(1, count, attn.config.num_heads, 4, 4, 2),
                attn.attention_weights(query).view(1, count, attn.config.num_heads, 16),
            )[0]
            rows = layer.norm1(rows + attn.output_proj(attended))
            hidden = F.relu(F.linear(rows, layer.linear1.weight, layer.linear1.bias))
            rows = layer.norm2(rows + F.linear(hidden, layer.linear2.weight, layer.linear2.bias))
            kept = min(budget, count)
            output[image] = output[image].index_copy(0, chosen[:kept], rows[:kept])
    return torch.stack(output)


def test_gradients_of_a_padded_training_batch(tiny_config):
    cfg = tiny_config("dino", **{"ENCODER.NUM_LAYERS": 3})
    cfg.MODEL.META_ARCHITECTURE = "FocusDETR"
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.4, 0.2]
    cfg.MODEL.FOCUS.OBJECT_TOKENS = 30
    torch.manual_seed(0)
    model = build_model(cfg).double().train()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    maps = {
        f"res{i}": torch.randn(2, c, 16 >> i - 3, 20 >> i - 3).double()
        for i, c in zip((3, 4, 5), model.backbone._out_feature_channels.values(), strict=True)
    }
    model.backbone.forward = lambda images: maps
    images = ImageList(torch.zeros(2, 3, 128, 160), [(128, 160), (72, 88)])
    weight = torch.randn(2, 1, 32).double()
    results = []
    for encode in (
        lambda tokens: model.encoder(tokens, model.proposal_head).memory,
        lambda tokens: published_encoder(model, tokens, 30),
    ):
        model.zero_grad()
        tokens = model.build_tokens(images)
        memory = encode(tokens).masked_fill(tokens.padding_mask[..., None], 0.0)
        (memory * weight).square().sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append(SimpleNamespace(memory=memory.detach(), gradients=gradients))
    ours, published = results
    torch.testing.assert_close(ours.memory, published.memory, rtol=0, atol=1e-10)
    reached = {n for n in published.gradients if n.startswith("encoder.")}
    assert len(reached) == 3 * (6 + 16)
    assert ours.gradients.keys() == published.gradients.keys()
    for name, gradient in published.gradients.items():
        torch.testing.assert_close(ours.gradients[name], gradient, rtol=1e-9, atol=1e-9)
