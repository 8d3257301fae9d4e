"""The self-attention of the object tokens."""

import pytest
import torch

from lite_focus_detr.modeling.encoder.dual_attention import DualAttention
from lite_focus_detr.modeling.structures import TokenQueries, TokenSelection


@pytest.fixture
def attention():
    torch.manual_seed(0)
    module = DualAttention(embed_dim=32, num_heads=4, dropout=0.5).eval()
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module


def test_object_tokens_change_by_self_attention_and_no_others_do(attention):
    rows, position = torch.randn(2, 30, 32), torch.randn(2, 30, 32)
    objects = TokenSelection(torch.stack([torch.randperm(30)[:10] for _ in range(2)]), None)
    updated = attention(TokenQueries(rows, position, None), objects)
    for image, indices in enumerate(objects.indices):
        content = rows[image, indices]
        query = content + position[image, indices]
        attended = attention.self_attn(query, query, content)[0]
        expected = rows[image].clone()
        expected[indices] = attention.norm(content + attended)
        torch.testing.assert_close(updated[image], expected)


def test_fillers_do_not_reach_the_object_tokens(attention):
    rows, position = torch.randn(2, 60, 32), torch.randn(2, 60, 32)
    indices = torch.stack([torch.randperm(60) for _ in range(2)])
    # The first image has 29 tokens, the others fill its rows.
    objects = TokenSelection(indices, indices < torch.tensor([[29], [60]]))
    changed = rows.clone()
    changed[0, 29:] += 10
    before, after = (
        attention(TokenQueries(x, position, None), objects)[0] for x in (rows, changed)
    )
    assert not torch.equal(before[:29], rows[0, :29])
    torch.testing.assert_close(before[:29], after[:29])
    assert torch.equal(after[29:], changed[0, 29:])


def test_the_whole_branch_can_be_dropped(attention):
    attention.dropout.p = 1.0
    rows, position = torch.randn(1, 10, 32), torch.randn(1, 10, 32)
    objects = TokenSelection(torch.arange(10)[None], None)
    updated = attention.train()(TokenQueries(rows, position, None), objects)
    centred = rows - rows.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = centred / deviation * attention.norm.weight + attention.norm.bias
    torch.testing.assert_close(updated, expected)
