import pytest
import torch

from lite_focus_detr.converters.class_rows import fit_class_rows
from lite_focus_detr.converters.renamed_weights import RenamedWeights

# category_ids between 0 and 90 that COCO never assigned to a thing.
UNASSIGNED = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def weights(classes, label_rows):
    """Tensors whose rows hold their own index."""
    return {
        "heads.class_embed.0.weight": torch.arange(classes)[:, None].expand(-1, 4),
        "heads.class_embed.0.bias": torch.arange(classes),
        "proposal_head.class_embed.bias": torch.arange(classes),
        "encoder.other_heads.class_embed.2.bias": torch.arange(classes),
        "denoising.label_enc.weight": torch.arange(label_rows)[:, None].expand(-1, 4),
    }


def fitted(classes, label_rows, num_classes, *, agnostic=False, unknown_label=False):
    renamed = RenamedWeights.from_state_dict(weights(classes, label_rows), str)
    fit_class_rows(
        renamed,
        num_classes=num_classes,
        agnostic_proposals=agnostic,
        unknown_label=unknown_label,
    )
    return renamed


def test_91_rows_become_80_by_category_id():
    renamed = fitted(91, 92, 80)

    expected = sorted(set(range(91)) - UNASSIGNED)
    assert renamed.tensors["heads.class_embed.0.bias"].tolist() == expected
    assert renamed.tensors["heads.class_embed.0.weight"][:, 3].tolist() == expected
    assert renamed.tensors["proposal_head.class_embed.bias"].tolist() == expected
    assert renamed.tensors["encoder.other_heads.class_embed.2.bias"].tolist() == expected
    assert renamed.tensors["denoising.label_enc.weight"][:, 0].tolist() == expected
    assert "category id" in renamed.notes[0]


def test_91_rows_stay_for_91_classes():
    renamed = fitted(91, 92, 91)

    assert renamed.tensors["heads.class_embed.0.bias"].tolist() == list(range(91))
    assert renamed.tensors["denoising.label_enc.weight"].shape == (91, 4)
    assert renamed.notes == []


def test_plain_denoising_keeps_the_row_of_no_label():
    renamed = fitted(91, 92, 80, unknown_label=True)

    rows = renamed.tensors["denoising.label_enc.weight"][:, 0].tolist()
    assert rows == [*sorted(set(range(91)) - UNASSIGNED), 91]


@pytest.mark.parametrize("num_classes", [80, 91, 3])
def test_objectness_stays_row_0_of_class_agnostic_proposals(num_classes):
    renamed = fitted(91, 92, num_classes, agnostic=True)

    assert renamed.tensors["proposal_head.class_embed.bias"].tolist() == list(range(num_classes))


@pytest.mark.parametrize(("classes", "num_classes"), [(91, 3), (80, 91), (80, 100)])
def test_other_numbers_of_classes_leave_the_class_rows_to_the_initialisation(classes, num_classes):
    renamed = fitted(classes, classes, num_classes)

    assert renamed.tensors == {}
    assert all(str(num_classes) in reason for reason in renamed.unused.values())
    assert "must be trained" in renamed.notes[0]


def test_too_short_label_embedding_is_left_out_with_the_reason():
    renamed = fitted(80, 80, 80, unknown_label=True)

    assert renamed.unused == {"denoising.label_enc.weight": "80 rows, the model needs row 80"}
