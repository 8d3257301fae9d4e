import pytest
import torch

from lite_focus_detr.converters.class_rows import COCO_NAMES, ClassNames, fit_class_rows
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


def fitted(classes, label_rows, num_classes, *, agnostic=False, unknown_label=False, names=None):
    renamed = RenamedWeights.from_state_dict(weights(classes, label_rows), str)
    if names is not None:
        # Rows of the model are told from those of the file by their sign.
        rows = num_classes + unknown_label
        initial = {name: -1 - x for name, x in weights(num_classes, rows).items()}
        names = ClassNames(*names, initial)
    fit_class_rows(
        renamed,
        num_classes=num_classes,
        agnostic_proposals=agnostic,
        unknown_label=unknown_label,
        names=names,
    )
    return renamed


HEADS = (
    "heads.class_embed.0.bias",
    "proposal_head.class_embed.bias",
    "encoder.other_heads.class_embed.2.bias",
)
LABELS = "denoising.label_enc.weight"


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


def test_classes_get_the_rows_of_their_name_wherever_these_are():
    names = (("car", "Person", "dog"), ("person ", "tree", "car"))
    renamed = fitted(3, 3, 3, names=names)

    for name in HEADS:
        assert renamed.tensors[name].tolist() == [1, -2, 0]
    assert renamed.tensors["heads.class_embed.0.weight"][:, 2].tolist() == [1, -2, 0]
    assert renamed.tensors[LABELS][:, 0].tolist() == [1, -2, 0]
    (warning,) = renamed.warnings
    assert "as many classes, but of car, Person, dog" in warning
    assert "person , car from the file (2 of 3); tree start anew" in warning
    assert renamed.notes == []


def test_another_number_of_classes_keeps_those_of_the_same_name():
    renamed = fitted(3, 3, 2, names=(("car", "person", "dog"), ("dog", "RBC")))

    assert renamed.tensors[HEADS[0]].tolist() == [2, -2]
    assert renamed.warnings == []
    (note,) = renamed.notes
    assert note == (
        "Rows of classes by name: dog from the file (1 of 2); RBC start anew and must be trained."
    )


def test_rows_of_coco_ids_are_found_by_the_names_of_coco():
    names = (COCO_NAMES, ("toothbrush", "RBC", "person"))
    by_id, by_class = fitted(91, 92, 3, names=names), fitted(80, 80, 3, names=names)

    # In COCO's annotation files person is 1 and toothbrush is 90.
    assert by_id.tensors[HEADS[0]].tolist() == [90, -2, 1]
    assert by_class.tensors[HEADS[0]].tolist() == [79, -2, 0]


def test_the_row_of_no_label_stays_the_last():
    names = (("a", "b", "c"), ("c", "x"))
    renamed = fitted(3, 4, 2, unknown_label=True, names=names)

    assert renamed.tensors[LABELS][:, 0].tolist() == [2, -2, 3]


def test_without_a_common_name_all_rows_start_anew():
    for names in ((("a", "b", "c"), ("x", "y", "z")), (("a", "b", "c"), ("x", "y"))):
        renamed = fitted(3, 3, len(names[1]), names=names)
        assert renamed.tensors == {}
        assert set(renamed.unused) == {*HEADS, "heads.class_embed.0.weight", LABELS}
        assert bool(renamed.warnings) == (len(names[1]) == 3)


def test_equal_names_change_nothing_and_unknown_rows_are_left_to_their_number():
    same = fitted(3, 3, 3, names=(("a", "b", "c"), ("A", "b", "C ")))
    # 5 rows for 3 names: which of them are these?
    unknown = fitted(5, 5, 3, names=(("a", "b", "c"), ("b", "x", "y")))

    assert same.tensors[HEADS[0]].tolist() == [0, 1, 2]
    assert (same.notes, same.warnings) == ([], [])
    assert unknown.tensors == {}
    assert "The file has 5 classes" in unknown.notes[0]


def test_a_name_that_two_classes_have_is_not_matched():
    renamed = fitted(3, 3, 2, names=(("a", "a", "b"), ("a", "b")))

    assert renamed.tensors[HEADS[0]].tolist() == [-1, 2]


def test_objectness_is_no_class():
    renamed = fitted(3, 3, 3, agnostic=True, names=(("a", "b", "c"), ("c", "b", "a")))

    assert renamed.tensors[HEADS[0]].tolist() == [2, 1, 0]
    assert renamed.tensors["proposal_head.class_embed.bias"].tolist() == [0, 1, 2]


def test_rows_of_another_width_start_anew():
    renamed = RenamedWeights.from_state_dict(weights(3, 3), str)
    initial = {name: torch.zeros(3, 5) if x.dim() > 1 else x for name, x in weights(3, 3).items()}
    names = ClassNames("abc", "cab", initial)
    fit_class_rows(
        renamed, num_classes=3, agnostic_proposals=False, unknown_label=False, names=names
    )

    assert "heads.class_embed.0.weight" in renamed.unused
    assert renamed.tensors[HEADS[0]].tolist() == [2, 0, 1]
