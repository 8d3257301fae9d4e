import pytest
import torch

from lite_focus_detr.converters.head_layout import share_heads, split_encoder_heads
from lite_focus_detr.converters.renamed_weights import RenamedWeights


def weights_of(**tensors):
    named = {key.replace("__", "."): value for key, value in tensors.items()}
    return RenamedWeights.from_state_dict(named, str)


def test_head_behind_the_last_decoder_layer_is_the_proposal_head():
    weights = weights_of(
        decoder__layers__0__norm1__bias=torch.zeros(1),
        decoder__layers__1__norm1__bias=torch.zeros(1),
        heads__class_embed__1__bias=torch.ones(1),
        heads__class_embed__2__bias=torch.full((1,), 2.0),
        heads__bbox_embed__2__layers__0__bias=torch.full((1,), 3.0),
    )

    split_encoder_heads(weights, "")

    assert weights.tensors["proposal_head.class_embed.bias"].item() == 2
    assert weights.tensors["proposal_head.bbox_embed.layers.0.bias"].item() == 3
    assert weights.names("heads.") == ["heads.class_embed.1.bias"]


def heads_of_one_decoder_layer(**tensors):
    return weights_of(
        decoder__layers__0__norm1__bias=torch.zeros(1),
        heads__class_embed__0__bias=torch.zeros(1),
        heads__class_embed__1__bias=torch.ones(1),
        heads__class_embed__2__bias=torch.full((1,), 2.0),
        heads__class_embed__3__bias=torch.full((1,), 3.0),
        **tensors,
    )


def test_heads_behind_that_of_the_encoder_output_are_those_of_the_encoder_layers():
    weights = heads_of_one_decoder_layer()

    split_encoder_heads(weights, "encoder.some_heads")

    assert weights.tensors["proposal_head.class_embed.bias"].item() == 1
    assert weights.tensors["encoder.some_heads.class_embed.0.bias"].item() == 2
    assert weights.tensors["encoder.some_heads.class_embed.1.bias"].item() == 3
    assert weights.names("heads.") == ["heads.class_embed.0.bias"]


def test_heads_of_encoder_layers_under_two_names_must_be_equal():
    same = heads_of_one_decoder_layer(encoder__some_heads__class_embed__0__bias=torch.tensor([2.0]))
    split_encoder_heads(same, "encoder.some_heads")
    assert same.unused == {
        "heads.class_embed.2.bias": "alias of encoder.some_heads.class_embed.0.bias"
    }

    other = heads_of_one_decoder_layer(encoder__some_heads__class_embed__0__bias=torch.zeros(1))
    with pytest.raises(ValueError, match=r"some_heads\S+ and heads\.class_embed\.2\.bias .*differ"):
        split_encoder_heads(other, "encoder.some_heads")


def test_a_format_without_heads_of_encoder_layers_leaves_them_where_they_are():
    weights = heads_of_one_decoder_layer()

    split_encoder_heads(weights, "")

    assert "heads.class_embed.2.bias" in weights.tensors


def test_equal_heads_become_one_shared_head():
    weights = weights_of(
        heads__class_embed__0__bias=torch.ones(2), heads__class_embed__1__bias=torch.ones(2)
    )

    share_heads(weights, share=True, num_layers=2)

    assert list(weights.tensors) == ["heads.class_embed.0.bias"]
    assert weights.unused == {"heads.class_embed.1.bias": "alias of heads.class_embed.0.bias"}


def test_different_heads_cannot_be_shared_and_the_remedy_is_named():
    weights = weights_of(
        heads__class_embed__0__bias=torch.ones(2), heads__class_embed__1__bias=torch.zeros(2)
    )

    with pytest.raises(
        ValueError,
        match=r"class_embed\.0\.bias and heads\.class_embed\.1.*set MODEL.DETR.SHARE_HEADS False",
    ):
        share_heads(weights, share=True, num_layers=2)


def test_only_head_is_copied_to_every_layer():
    weights = weights_of(
        heads__class_embed__0__bias=torch.ones(2),
        heads__bbox_embed__0__layers__0__bias=torch.zeros(2),
    )

    share_heads(weights, share=False, num_layers=3)

    assert weights.used() == {
        "heads.class_embed.0.bias": tuple(f"heads.class_embed.{i}.bias" for i in range(3)),
        "heads.bbox_embed.0.layers.0.bias": tuple(
            f"heads.bbox_embed.{i}.layers.0.bias" for i in range(3)
        ),
    }


def test_heads_of_their_own_stay():
    weights = weights_of(
        heads__class_embed__0__bias=torch.ones(2), heads__class_embed__1__bias=torch.zeros(2)
    )

    share_heads(weights, share=False, num_layers=2)

    assert list(weights.tensors) == ["heads.class_embed.0.bias", "heads.class_embed.1.bias"]
    assert weights.tensors["heads.class_embed.1.bias"].sum() == 0
