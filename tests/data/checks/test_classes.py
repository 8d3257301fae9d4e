from lite_focus_detr.data.checks import Level
from lite_focus_detr.data.checks.classes import check_classes

BOX = (1, 1, 5, 5)


def objects(*counts):
    return [[(label, BOX) for label, count in enumerate(counts) for _ in range(count)]]


def check(make_split, *splits, classes=("cell", "plate", "rod")):
    names = ("train", "val", "test")
    read = [make_split(n, objects(*x), classes)[0] for n, x in zip(names, splits, strict=False)]
    return {x.text: (x.level, x.examples) for x in check_classes(read)}


def test_balanced_classes_in_all_splits_are_fine(make_split):
    assert check(make_split, (20, 20, 20), (3, 3, 3)) == {}


def test_classes_without_objects_in_a_split_are_named(make_split):
    found = check(make_split, (20, 20, 0), (3, 0, 2))
    assert found == {
        "classes with objects in val, but not in train: they cannot be learned": (
            Level.WARNING,
            ("rod",),
        ),
        "classes with objects in train, but not in val: their AP is not a number": (
            Level.WARNING,
            ("plate",),
        ),
    }


def test_classes_without_any_object_are_named(make_split):
    found = check(make_split, (20, 0, 30), (3, 0, 2))
    assert found == {"classes without any object": (Level.WARNING, ("plate",))}


def test_rare_classes_and_imbalance_are_told(make_split):
    found = check(make_split, (9, 100, 50), (1, 1, 1))
    assert found == {
        "classes with less than 10 objects in train": (Level.WARNING, ("cell 9",)),
        "the most frequent class has 11 times the objects of the rarest": (
            Level.NOTE,
            ("plate 100", "cell 9"),
        ),
    }


def test_names_that_occur_twice_are_told(make_split):
    found = check(make_split, (20, 20), (3, 3), classes=("cell", "cell"))
    assert found == {"classes with the same name": (Level.WARNING, ("cell",))}


def test_nothing_to_learn_is_an_error(make_split):
    found = check(make_split, (0, 0, 0), (1, 1, 1))
    assert found == {"no object in train: nothing to learn": (Level.ERROR, ())}


def test_nothing_to_find_is_a_warning(make_split):
    found = check(make_split, (20, 20, 20), (0, 0, 0))
    assert found["no object in val: its AP is not a number"] == (Level.WARNING, ())
