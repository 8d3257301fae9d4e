"""The command line beats files in what it says about the schedule."""

import pytest

from lite_focus_detr import model_zoo
from lite_focus_detr.config import learning_rate_advice, load_config


@pytest.fixture
def solver_of(tmp_path):
    """``SOLVER`` of a file in epochs, or of another one, with options."""

    def load(*options, content="{EPOCHS: 36, STEP_EPOCHS: [30]}"):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"SOLVER: {content}\n")
        solver = load_config(str(path), list(options)).SOLVER
        return solver.EPOCHS, list(solver.STEP_EPOCHS), solver.MAX_ITER, tuple(solver.STEPS)

    return load


RECIPE = "deformable_detr/deformable_detr_r50_50ep"
IN_ITERATIONS = "{MAX_ITER: 90000, STEPS: [82500]}"


def test_iterations_of_the_command_line_beat_epochs_of_a_file(solver_of):
    assert solver_of("SOLVER.MAX_ITER", "72") == (0, [], 72, (60,))
    assert solver_of("SOLVER.MAX_ITER", "72", "SOLVER.STEPS", "(9,)") == (0, [], 72, (9,))
    assert solver_of("SOLVER.MAX_ITER", "72", "SOLVER.STEPS", "()") == (0, [], 72, ())
    assert solver_of("SOLVER.MAX_ITER", "1") == (0, [], 1, ())


def test_steps_of_the_command_line_beat_those_of_a_file(solver_of):
    assert solver_of("SOLVER.STEPS", "(9, 10)")[:2] == (36, [])
    assert solver_of("SOLVER.STEPS", "(9, 10)")[3] == (9, 10)
    assert solver_of("SOLVER.STEP_EPOCHS", "[8.5]")[:2] == (36, [8.5])


def test_steps_keep_their_share_of_another_number_of_epochs(solver_of):
    assert solver_of("SOLVER.EPOCHS", "12")[:2] == (12, [10])
    assert solver_of("SOLVER.EPOCHS", "1.2")[:2] == (1.2, [1])
    epochs, steps, _, _ = solver_of("SOLVER.EPOCHS", "12", content=IN_ITERATIONS)
    assert (epochs, steps) == (12, [11])


def test_a_recipe_in_iterations_is_changed_as_in_detectron2(solver_of):
    changed = solver_of("SOLVER.MAX_ITER", "100", content=IN_ITERATIONS)
    assert changed == (0, [], 100, (82500,))


def test_no_epochs_on_the_command_line_means_iterations(solver_of):
    options = ("SOLVER.EPOCHS", "0", "SOLVER.MAX_ITER", "72", "SOLVER.STEPS", "(5,)")
    assert solver_of(*options) == (0, [], 72, (5,))


def test_no_epochs_on_the_command_line_leave_the_steps_their_share(solver_of):
    assert solver_of("SOLVER.EPOCHS", "0", "SOLVER.MAX_ITER", "72") == (0, [], 72, (60,))
    # detectron2's 40,000 iterations: 30 / 36 of them.
    assert solver_of("SOLVER.EPOCHS", "0") == (0, [], 40000, (33333,))
    given = solver_of("SOLVER.EPOCHS", "0", content=IN_ITERATIONS)
    assert given == (0, [], 90000, (82500,))


def test_steps_in_iterations_survive_in_the_file_that_a_training_writes(tmp_path):
    options = ["SOLVER.STEPS", "(600,)"]
    path = tmp_path / "config.yaml"
    path.write_text(load_config(model_zoo.get_config_file(RECIPE), options).dump())
    for more in ([], ["SEED", "1"], ["SOLVER.EPOCHS", "12"], ["SOLVER.MAX_ITER", "900"]):
        solver = load_config(str(path), more).SOLVER
        assert (list(solver.STEP_EPOCHS), tuple(solver.STEPS)) == ([], (600,))
    solver = load_config(str(path), ["SOLVER.STEP_EPOCHS", "[40]"]).SOLVER
    assert list(solver.STEP_EPOCHS) == [40]


def test_steps_of_detectron2_are_none_of_a_file_in_epochs(solver_of):
    assert solver_of(content="{EPOCHS: 36}")[3] == ()
    assert solver_of(content="{EPOCHS: 36, STEP_EPOCHS: [30], STEPS: [600]}")[3] == ()


def test_a_file_may_have_a_fraction_of_an_epoch(solver_of):
    assert solver_of(content="{EPOCHS: 0.5}")[0] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("SOLVER.MAX_ITER", "9", "SOLVER.EPOCHS", "1"), r"SOLVER\.MAX_ITER, in .* SOLVER\.EPOCHS"),
        (("SOLVER.STEPS", "(9,)", "SOLVER.STEP_EPOCHS", "[1]"), r"SOLVER\.STEPS, in .*STEP_EPOCHS"),
        (("SOLVER.MAX_ITER", "9", "SOLVER.STEP_EPOCHS", "[1]"), r"MAX_ITER, in .*STEP_EPOCHS"),
        (("SOLVER.EPOCHS", "ten"), "SOLVER.EPOCHS is 'ten'; give a number"),
        (("SOLVER.EPOCHS", "-1"), "SOLVER.EPOCHS is -1; give a number"),
        (("SOLVER.EPOCHS", "True"), "SOLVER.EPOCHS is True; give a number"),
    ],
)
def test_contradictions_are_refused(options, message, solver_of):
    with pytest.raises(ValueError, match=message):
        solver_of(*options)


def solver(*options):
    return load_config("", list(options)).SOLVER


def test_another_batch_size_asks_for_the_square_root_of_the_learning_rate():
    recipe = solver("SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.001")
    larger = solver("SOLVER.IMS_PER_BATCH", "8", "SOLVER.BASE_LR", "0.001")
    assert "SOLVER.BASE_LR 0.0014 would fit instead of 0.001" in learning_rate_advice(
        larger, recipe
    )
    assert "SOLVER.BASE_LR 0.00071 would" in learning_rate_advice(
        solver("SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.001"), recipe
    )


@pytest.mark.parametrize(
    "options",
    [
        ("SOLVER.IMS_PER_BATCH", "16"),
        ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.ACCUMULATION_STEPS", "4"),
        ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.5"),
    ],
)
def test_the_batch_of_the_recipe_and_a_chosen_learning_rate_need_no_advice(options):
    assert learning_rate_advice(solver(*options), solver()) is None
