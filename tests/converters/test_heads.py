import pytest
import torch

from lite_focus_detr.converters.draft import Draft
from lite_focus_detr.converters.heads import share_heads, split_proposal_head


def draft_of(**tensors):
    return Draft.renamed({k.replace("__", "."): v for k, v in tensors.items()}, str)


def test_head_behind_the_last_decoder_layer_is_the_proposal_head():
    draft = draft_of(
        decoder__layers__0__norm1__bias=torch.zeros(1),
        decoder__layers__1__norm1__bias=torch.zeros(1),
        heads__class_embed__1__bias=torch.ones(1),
        heads__class_embed__2__bias=torch.full((1,), 2.0),
        heads__bbox_embed__2__layers__0__bias=torch.full((1,), 3.0),
    )

    split_proposal_head(draft)

    assert draft.tensors["proposal_head.class_embed.bias"].item() == 2
    assert draft.tensors["proposal_head.bbox_embed.layers.0.bias"].item() == 3
    assert draft.names("heads.") == ["heads.class_embed.1.bias"]


def test_equal_heads_become_one_shared_head():
    draft = draft_of(
        heads__class_embed__0__bias=torch.ones(2), heads__class_embed__1__bias=torch.ones(2)
    )

    share_heads(draft, share=True, num_layers=2)

    assert list(draft.tensors) == ["heads.class_embed.0.bias"]
    assert draft.unused == {"heads.class_embed.1.bias": "alias of heads.class_embed.0.bias"}


def test_different_heads_cannot_be_shared_and_the_remedy_is_named():
    draft = draft_of(
        heads__class_embed__0__bias=torch.ones(2), heads__class_embed__1__bias=torch.zeros(2)
    )

    with pytest.raises(
        ValueError,
        match=r"class_embed\.0\.bias and heads\.class_embed\.1.*set MODEL.DETR.SHARE_HEADS False",
    ):
        share_heads(draft, share=True, num_layers=2)


def test_only_head_is_copied_to_every_layer():
    draft = draft_of(
        heads__class_embed__0__bias=torch.ones(2),
        heads__bbox_embed__0__layers__0__bias=torch.zeros(2),
    )

    share_heads(draft, share=False, num_layers=3)

    assert draft.used() == {
        "heads.class_embed.0.bias": tuple(f"heads.class_embed.{i}.bias" for i in range(3)),
        "heads.bbox_embed.0.layers.0.bias": tuple(
            f"heads.bbox_embed.{i}.layers.0.bias" for i in range(3)
        ),
    }


def test_heads_of_their_own_stay():
    draft = draft_of(
        heads__class_embed__0__bias=torch.ones(2), heads__class_embed__1__bias=torch.zeros(2)
    )

    share_heads(draft, share=False, num_layers=2)

    assert list(draft.tensors) == ["heads.class_embed.0.bias", "heads.class_embed.1.bias"]
    assert draft.tensors["heads.class_embed.1.bias"].sum() == 0
