import argparse
import socket

import pytest
import torch
from detectron2.engine import default_argument_parser

from lite_focus_detr.engine import launch, run
from lite_focus_detr.engine.launch import Place, find_place, first_host, meeting_point


def arguments(*command):
    return default_argument_parser().parse_args(list(command))


TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_NODELIST": "gpu[07-08]",
}


def test_the_variables_of_torchrun_give_the_place():
    assert find_place(TORCHRUN, arguments()) == Place(5, 8, 1, 4, "env://", "torchrun")


def test_the_variables_of_slurm_give_the_place_and_a_port_that_all_machines_know():
    place = find_place(SLURM, arguments())
    assert place[:4] == (5, 8, 1, 4)
    host, port = place.url.removeprefix("tcp://").split(":")
    assert host == "gpu07"
    assert 20000 <= int(port) < 40000
    assert find_place({**SLURM, "SLURM_PROCID": "0"}, arguments()).url == place.url
    assert find_place({**SLURM, "SLURM_STEP_ID": "1"}, arguments()).url != place.url
    chosen = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert find_place({**SLURM, **chosen}, arguments()).url == "tcp://10.0.0.1:1234"


@pytest.mark.parametrize(
    "environment",
    [{}, {**SLURM, "SLURM_NTASKS": "1"}, {**TORCHRUN, "WORLD_SIZE": "1"}, {"WORLD_SIZE": "4"}],
)
def test_without_a_launcher_of_several_processes_there_is_no_place(environment):
    assert find_place(environment, arguments()) is None


def test_processes_are_not_multiplied():
    with pytest.raises(ValueError, match="torchrun has started 8 processes and --num-gpus 2 asks"):
        find_place(TORCHRUN, arguments("--num-gpus", "2"))
    # In a batch script without srun SLURM's variables are there, but it has started one process.
    assert find_place(SLURM, arguments("--num-gpus", "2")) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "one"}, "variables of the launcher are wrong: .*'one'"),
        ({"LOCAL_WORLD_SIZE": "3"}, "8 processes, 3 of them on this machine"),
    ],
)
def test_variables_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        find_place({**TORCHRUN, **changes}, arguments())


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("a-b[3,5]-ib,c", "a-b3-ib"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_first_host_of_a_list_of_slurm(nodes, first):
    assert first_host(nodes) == first


@pytest.fixture
def busy_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def port_of(url):
    with socket.socket() as probe:  # it can be bound: it is free
        probe.bind(("127.0.0.1", int(url.rpartition(":")[2])))
    return int(url.rpartition(":")[2])


def test_auto_finds_a_free_port():
    url = meeting_point(arguments("--num-gpus", "2", "--dist-url", "auto"))
    assert url.startswith("tcp://127.0.0.1:")
    assert port_of(url) > 0


def test_a_port_that_was_asked_for_is_taken_or_refused(busy_port):
    free = f"tcp://127.0.0.1:{port_of(meeting_point(arguments('--dist-url', 'auto')))}"
    assert meeting_point(arguments("--dist-url", free)) == free
    busy = f"tcp://127.0.0.1:{busy_port}"
    with pytest.raises(ValueError, match=rf"port {busy_port} .* in use; .* --dist-url auto"):
        meeting_point(arguments("--dist-url", busy))
    # Only the first machine listens there.
    others = arguments("--dist-url", busy, "--num-machines", "2", "--machine-rank", "1")
    assert meeting_point(others) == busy


def test_a_second_run_of_a_user_does_not_meet_the_first(busy_port, monkeypatch):
    args = arguments("--num-gpus", "2")
    busy = f"tcp://127.0.0.1:{busy_port}"
    monkeypatch.setattr(argparse.ArgumentParser, "get_default", lambda self, name: busy)
    args.dist_url = busy
    assert port_of(meeting_point(args)) != busy_port


def test_auto_is_refused_for_several_machines():
    with pytest.raises(ValueError, match="auto is for one machine; give tcp://FIRST_MACHINE:PORT"):
        meeting_point(arguments("--dist-url", "auto", "--num-machines", "2"))


@pytest.mark.parametrize("num_gpus", [1, 2])
def test_as_many_processes_start_as_there_are_gpus(monkeypatch, num_gpus):
    started = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(launch, "run_spawned", lambda main, args: started.append(args.num_gpus))
    run(lambda args: started.append(1), arguments("--num-gpus", str(num_gpus)))
    assert started == [num_gpus]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SystemExit, match="--num-gpus is 3, but this machine has 2"):
        run(print, arguments("--num-gpus", "3"))


def test_a_timeout_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("LITE_FOCUS_DETR_TIMEOUT", "soon")
    with pytest.raises(SystemExit, match="LITE_FOCUS_DETR_TIMEOUT is 'soon'; set a number of sec"):
        run(print, arguments())
