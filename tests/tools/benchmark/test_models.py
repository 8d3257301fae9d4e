import numpy as np
import pytest
import torch

from lite_focus_detr import model_zoo
from lite_focus_detr.tools.benchmark import models
from lite_focus_detr.tools.benchmark.__main__ import main
from lite_focus_detr.tools.benchmark.contenders import Contender, detector_workload, make_inputs
from lite_focus_detr.tools.benchmark.models import PARTS, Runs, run_rounds, table


def test_every_contender_runs_once_more_than_it_is_measured():
    calls = []
    contenders = {("a", "x"): Contender(lambda: calls.append("a"))}
    contenders["b", "x"] = Contender(lambda: calls.append("b"))
    measured = run_rounds(contenders, 3, "cpu")
    assert calls == ["a", "b"] * 4
    assert [runs.seconds.shape for runs in measured.values()] == [(3,), (3,)]
    assert measured["a", "x"].parts == {}


def test_a_detector_is_measured_by_part():
    model = model_zoo.get("dino_shapes", device="cpu")
    workload = detector_workload(model, make_inputs((64, 96), model.device), train=False)
    (runs,) = run_rounds({("dino", "cpu"): Contender(workload, model)}, 2, "cpu").values()
    assert tuple(runs.parts) == PARTS
    assert min(runs.parts.values()) > 0
    assert sum(runs.parts.values()) < runs.seconds.max()


def test_the_table_divides_by_its_first_row():
    parts = dict(zip(PARTS, (0.1, 0.01, 0.05, 0.01, 0.02), strict=True))
    measured = {
        ("dino", "cpu"): Runs(np.array([0.2, 0.2, 0.2]), np.array([0.4, 0.4, 0.4]), parts),
        ("peer", "other"): Runs(np.array([0.3, 0.5, 0.5]), np.array([0.1, 0.6, 0.6]), {}),
    }
    peaks = {("dino", "cpu"): 3_000_000, ("peer", "other"): None}
    first, second = table(measured, peaks, "plain").splitlines()[1:]
    numbers = ["200", "200", "5.00", "1.00", "1.00", "3", "100", "10", "50", "10", "20", "10"]
    assert first.split() == ["dino", "cpu", *numbers]
    assert second.split() == ["peer", "other", "500", "500", "2.00", "2.50", "1.50", *["-"] * 7]


@pytest.mark.parametrize("options", [[], ["--training"]])
def test_the_command_prints_a_table_for_a_readme(capsys, monkeypatch, options):
    for name in ("models.peak_memories", "contenders.peers"):
        monkeypatch.setattr(f"lite_focus_detr.tools.benchmark.{name}", lambda *_: {})
    options = [*options, "--image-size", "64", "96", "--rounds", "1", "--markdown"]
    main(["model", "--config-file", "dino_shapes", "--config-file", "lite_dino_shapes", *options])
    heading, titles, _, *rows = capsys.readouterr().out.splitlines()[1:]
    assert heading.startswith("Training step" if "--training" in options else "Inference")
    assert titles.startswith("| model ")
    names = [row.split("|")[1].strip() for row in rows]
    assert set(names) == {"dino_shapes", "lite_dino_shapes"}


def test_detectors_are_exported_in_the_dialects_to_compare(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(
        models, "export_onnx", lambda model, path, dialect: written.append((model, path, dialect))
    )
    configs = {"quick/dino_shapes": model_zoo.get_config("dino_shapes")}
    paths = models.export_detectors(configs, ["standard", "native"], tmp_path)
    names = ["dino_shapes_standard.onnx", "dino_shapes_native.onnx"]
    assert paths == [str(tmp_path / name) for name in names]
    assert [(path, dialect) for _, path, dialect in written] == [
        (paths[0], "standard"),
        (paths[1], "native"),
    ]
    # The same detector, so that only the dialect differs.
    assert written[0][0] is written[1][0]
    assert models.export_detectors(configs, [], tmp_path) == []


def test_detectors_with_equal_last_parts_are_exported_to_files_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "export_onnx", lambda *_, **__: None)
    cfg = model_zoo.get_config("dino_shapes")
    paths = models.export_detectors({"a/dino": cfg, "b/dino": cfg}, ["standard"], tmp_path)
    assert len(set(paths)) == 2


@pytest.mark.parametrize("options", [["--training"], ["--device", "cuda"]])
@pytest.mark.parametrize("files", [["--export", "standard"], ["--onnx", "model.onnx"]])
def test_exported_detectors_only_run_inference_on_the_cpu(options, files):
    with pytest.raises(SystemExit, match=r"^error: exported detectors run inference on the CPU"):
        main(["model", *files, *options])


def test_a_file_that_is_no_onnx_is_one_line(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"weights")
    with pytest.raises(SystemExit, match=r"^error: ONNX Runtime cannot read .*bad\.onnx: "):
        main(["model", "--onnx", str(path)])


def test_a_file_that_is_missing_is_named():
    with pytest.raises(SystemExit, match=r"--onnx: there is no file missing\.onnx"):
        main(["model", "--onnx", "missing.onnx"])


def test_one_run_has_rows_of_several_numbers_of_threads(capsys, monkeypatch):
    used, before = {}, torch.get_num_threads()

    def contenders(*_):
        built = torch.get_num_threads()
        workload = lambda: used.setdefault(built, set()).add(torch.get_num_threads())  # noqa: E731
        return {("dino", "cpu"): Contender(workload)}

    monkeypatch.setattr(models, "make_contenders", contenders)
    monkeypatch.setattr(models, "peak_memories", lambda *_: {})
    options = ["--rounds", "1", "--also-threads", "3", "1"]
    main(["model", "--config-file", "dino_shapes", *options])
    assert used == {number: {number} for number in (before, 3, 1)}
    assert torch.get_num_threads() == before
    printed = capsys.readouterr().out
    assert "dino     cpu, 3 threads" in printed
    assert "dino     cpu, 1 thread " in printed


@pytest.mark.parametrize("options", [["0"], ["1", "--device", "cuda"]])
def test_threads_are_some_of_the_cpu(options):
    with pytest.raises(SystemExit, match=r"^error: --also-threads takes numbers from 1 on"):
        main(["model", "--also-threads", *options])
