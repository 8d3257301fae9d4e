from collections import Counter

from detectron2.utils.events import EventStorage

from lite_focus_detr.modeling import replaced_values


def test_the_first_of_a_kind_is_logged_and_all_are_counted(caplog, monkeypatch):
    monkeypatch.setattr(replaced_values, "totals", Counter())
    with EventStorage() as storage:
        for number in (0, 3, 0, 4):
            replaced_values.count_replaced("costs", number, "costs were replaced")
        replaced_values.count_replaced("boxes", 1, "boxes were dropped")
    replaced_values.count_replaced("boxes", 1, "boxes were dropped")  # outside of a training
    assert replaced_values.totals == {"costs": 7, "boxes": 2}
    assert caplog.messages == [
        "3 costs were replaced; from now on they are only counted",
        "1 boxes were dropped; from now on they are only counted",
    ]
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == {"nonfinite/costs": 7, "nonfinite/boxes": 1}
