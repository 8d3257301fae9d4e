"""The benchmark of a GPU, here on the CPU and with a clock that stands in for CUDA graphs."""

import types

import pytest
import torch

from lite_focus_detr.tools.benchmark import cuda_operators, operators

DEVICE = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Levels of a small image."""
    monkeypatch.setattr(operators, "SHAPES", ((8, 12), (4, 6), (2, 3), (1, 2)))
    monkeypatch.setattr(operators, "QUERIES", {"encoder": 128, "decoder": 20})


class FixedTimer:
    """Runs the calls; a call takes a microsecond more than one of the contender before."""

    def __init__(self):
        self.prepared = 0

    def prepare(self, calls):
        for call in calls:
            call()
        self.prepared += 1
        seconds = 1e-6 * self.prepared
        return lambda: seconds


def test_every_case_has_its_contenders_bytes_and_share_of_the_floor(capsys):
    cuda_operators.run(["encoder", "decoder"], DEVICE, "float32", 1, FixedTimer())
    first, header, _, *rows = capsys.readouterr().out.splitlines()
    # Of two megabytes in a microsecond.
    assert first.startswith("a copy moves 2097 GB/s")
    assert header.split() == ["queries", "operator", "us", "ratio", "GB/s", "share", "of", "floor"]
    assert rows[0].split()[:5] == ["encoder", "multi-scale", "native", "2.0", "1.0"]
    # 128 + 128 rows of 256, 128 x 128 points of 3 numbers, of 4 bytes each.
    moved = 4 * (256 * 256 + 128 * 128 * 3)
    assert float(rows[0].split()[5]) == pytest.approx(1e-9 * moved / 2e-6, abs=0.1)
    assert rows[0].split()[6] == f"{moved / 2**21 / 2:.0%}"
    decoder = [row for row in rows if row.startswith("decoder")]
    assert all(row.split()[-2:] == ["-", "-"] for row in decoder)  # reads a part of the maps
    names = [row.split("  ")[2].strip() for row in decoder]
    assert {"multi-scale", "fused", "key-aware", "multi-scale, gradients"} <= {*names}
    # Its kernels do not run here.
    assert rows[-1].startswith("multi-scale, gradients: original algorithm fails (")


def test_baselines_say_that_their_time_includes_casts(capsys):
    cuda_operators.run(["decoder"], DEVICE, "bfloat16", 1, FixedTimer())
    output = capsys.readouterr().out
    assert "grid_sample, with casts" in output
    assert "original algorithm, with casts fails (" in output
    assert "native, with casts" not in output


class FailingTimer(FixedTimer):
    """Raises ``error`` in place of the measurement of one number."""

    def __init__(self, number, error):
        super().__init__()
        self.number, self.error = number, error

    def prepare(self, calls):
        measure = super().prepare(calls)
        if self.prepared == self.number:
            raise self.error
        return measure


def test_after_a_failed_capture_what_was_measured_is_printed_and_nothing_else_is(capsys):
    # The copy, three contenders at least of the first case, and then the second of "fused".
    others = len(cuda_operators.peers(DEVICE)["multi-scale"]) - 1
    inputs = operators.make_inputs(20, DEVICE, torch.float32)
    first = next(iter(operators.make_cases(inputs, DEVICE)))
    number = 1 + len(first.contenders) + others + 2
    timer = FailingTimer(number, cuda_operators.CaptureError("operation not permitted\nmore"))
    cuda_operators.run(["decoder"], DEVICE, "float32", 1, timer)
    *_, row, peer, last = capsys.readouterr().out.splitlines()
    assert timer.prepared == number
    assert row.startswith("decoder")
    assert " multi-scale " in row
    assert peer.startswith("multi-scale: original algorithm fails (")
    reason = "(CaptureError: operation not permitted); it and all that follows are left out"
    assert last == f"fused: grid_sample fails {reason}"


@pytest.mark.parametrize("error", [ValueError, cuda_operators.CaptureError])
def test_a_native_operator_that_fails_is_an_error(error):
    timer = FailingTimer(2, error("no kernel image"))
    with pytest.raises(RuntimeError, match=r"multi-scale: native fails \(.*: no kernel image\)"):
        cuda_operators.run(["decoder"], DEVICE, "float32", 1, timer)


def test_sets_of_inputs_are_more_than_the_cache():
    tensors = (torch.empty(1000, dtype=torch.float32),)
    assert cuda_operators.number_of_sets(tensors, 10_000) == 6
    assert cuda_operators.number_of_sets(tensors, 100) == 2


def test_deformops_takes_part_where_it_is_installed(monkeypatch):
    def sample(value, sizes, starts, locations, weights, step):
        assert sizes.tolist() == [[8, 12], [4, 6], [2, 3], [1, 2]]
        assert starts.tolist() == [0, 96, 120, 126]
        return operators.grid_sample_attention(value, locations, weights)

    def sample_with_softmax(value, sizes, starts, locations, logits, step, points):
        weights = logits.softmax(-1).unflatten(-1, (4, points))
        return sample(value, sizes, starts, locations, weights, step)

    library = types.SimpleNamespace(
        library=types.SimpleNamespace(load=lambda name: None),
        deform2d_multiscale=sample,
        deform2d_multiscale_fused=sample_with_softmax,
    )
    monkeypatch.setitem(__import__("sys").modules, "deformops", library)
    inputs = operators.make_inputs(20, DEVICE, torch.float32)
    peers = cuda_operators.peers(DEVICE)
    for case in operators.make_cases(inputs, DEVICE):
        if not case.backward and case.name in ("multi-scale", "fused"):
            expected = case.contenders["native"](*case.tensors)
            actual = peers[case.name]["deformops"](*case.tensors)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_graph_is_captured_once_and_replayed_between_events(monkeypatch):
    log = []

    class Stream:
        def wait_stream(self, other):
            log.append("wait")

        def __enter__(self):
            log.append("stream")

        def __exit__(self, *error):
            log.append("end of stream")

    class Graph:
        def replay(self):
            log.append("replay")

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def synchronize(self):
            log.append("synchronise")

        def elapsed_time(self, other):
            return 20.0  # milliseconds

    stream = Stream()
    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda given: given,
        "synchronize": lambda: None,
        "CUDAGraph": Graph,
        "graph": lambda graph: stream,
        "Event": Event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    measure = cuda_operators.GraphTimer().prepare([lambda: log.append("call")] * 2)
    assert log.count("call") == 6  # twice to warm up, and once to be captured
    log.clear()
    # 20 replays of two calls took 20 milliseconds.
    assert measure() == pytest.approx(5e-4)
    assert log == ["event", *["replay"] * 20, "event", "synchronise"]
