"""From the neck's maps on, an image does not depend on the others of its batch."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from tests.conftest import FAMILIES

STRIDES = (8, 16, 32, 64)


def outputs(model, levels, size, padded_size):
    images = ImageList(torch.empty(len(levels[0]), 3, *padded_size), size)
    tokens = model.flatten_levels(levels, images)
    memory = model.encoder(tokens, model.proposal_head).memory
    queries = model.query_selector(memory, tokens, model.proposal_head, None)
    return queries, model.decoder(queries, memory, tokens, model.heads).predictions


@pytest.mark.parametrize("num_queries", [20, 150])
@pytest.mark.parametrize(
    ("family", "architecture", "attention"),
    [
        *((family, "DeformableDETR", "deformable") for family in FAMILIES),
        ("dino", "LiteDETR", "deformable"),
        ("dino", "LiteDETR", "key_aware"),
    ],
)
def test_an_image_alone_equals_the_same_image_in_a_padded_batch(
    tiny_config, family, architecture, attention, num_queries
):
    torch.manual_seed(0)
    changes = {"NUM_QUERIES": num_queries, "DECODER.POSITION_FRAME": "image"}
    changes |= {"ENCODER.ATTENTION": attention, "DECODER.ATTENTION": attention}
    cfg = tiny_config(family, **changes)
    cfg.MODEL.META_ARCHITECTURE = architecture
    model = build_model(cfg).double().eval()
    small, large = (64, 96), (192, 160)  # The small image has 128 tokens.
    alone, batch = [], []
    for stride in STRIDES:
        height, width = -(-small[0] // stride), -(-small[1] // stride)
        image = torch.randn(1, 32, height, width, dtype=torch.float64)
        padded = torch.randn(2, 32, -(-large[0] // stride), -(-large[1] // stride)).double() * 100
        padded[0, :, :height, :width] = image[0]
        alone.append(image)
        batch.append(padded)
    with torch.no_grad():
        queries, expected = outputs(model, alone, [small], small)
        _, found = outputs(model, batch, [small, large], large)
    # An image with fewer tokens than queries has fewer queries when it is alone.
    count = queries.content.shape[1]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.logits[:1, :count], theirs.logits, rtol=0, atol=1e-10)
        torch.testing.assert_close(ours.boxes[:1, :count], theirs.boxes, rtol=0, atol=1e-10)
