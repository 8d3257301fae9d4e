"""Files that somebody has made to do harm, through the commands that read them."""

import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import pytest
import torch

CONFIG = Path(__file__).parents[1] / "engine/tiny.yaml"


@pytest.fixture
def trace(tmp_path):
    """A file that nothing may make: what every pickle and tag below would do."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture(autouse=True)
def _nothing_outside(tmp_path):
    """Nothing appears beside the folder of the test, or in the folder of downloads."""
    before = set(os.listdir(tmp_path.parent))
    yield
    assert set(os.listdir(tmp_path.parent)) == before


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zip_checkpoint(path, content):
    torch.save({"model": content}, path)


def legacy_checkpoint(path, content):
    torch.save({"model": content}, path, _use_new_zipfile_serialization=False)


def array_pickle(path, content):
    path.write_bytes(pickle.dumps({"model": content}))


FORMATS = {
    "zip.pth": zip_checkpoint,
    "legacy.pth": legacy_checkpoint,
    "arrays.pkl": array_pickle,
}
CALLS = {
    "os.system": lambda trace: Call(os.system, f"touch {trace}"),
    "eval": lambda trace: Call(eval, f"open({str(trace)!r}, 'w')"),
    "exec": lambda trace: Call(exec, f"open({str(trace)!r}, 'w')"),
    "open": lambda trace: Call(open, str(trace), "w"),
    "Path.touch": lambda trace: Call(Path.touch, trace),
    "os.mkdir": lambda trace: Call(os.mkdir, str(trace)),
    "nested in a state": lambda trace: {"a": [Call(os.system, f"touch {trace}")]},
}


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("attack", CALLS)
def test_weights_that_call_something_are_refused_by_an_evaluation(
    train, tmp_path, trace, attack, kind
):
    FORMATS[kind](tmp_path / kind, CALLS[attack](trace))
    line = train("--eval-only", "MODEL.WEIGHTS", tmp_path / kind).refusal()
    assert f"{kind} is refused: it wants to import " in line


def opcodes(trace):
    """Ways to call a function that pickle itself does not write."""
    command = f"touch {trace}".encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    return {
        "INST": b"(V" + command + b"\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text + b"o.",
        "NEWOBJ": b"cos\nsystem\n" + text + b"\x85\x81.",
        "BUILD": b"cos\nsystem\n" + text + b"b.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",
        "EXT1": b"\x80\x02\x82\x01.",
        "PERSID": b"P" + command + b"\n.",
        "MEMO without end": b"]r\xff\xff\xff\xff.",
        "BYTES without end": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    }


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize("opcode", opcodes(""))
def test_opcodes_that_call_something_are_refused_by_a_conversion(
    tool, tmp_path, trace, opcode, suffix
):
    path = tmp_path / f"evil.{suffix}"
    path.write_bytes(opcodes(trace)[opcode])
    done = tool("convert_checkpoint", path, tmp_path / "out.pth", "--config-file", CONFIG)
    assert f"evil.{suffix}" in done.refusal()
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.fault(area="security", expected="survived")
@pytest.mark.parametrize("attack", ["os.system", "nested in a state"])
def test_a_newest_checkpoint_with_code_is_skipped_by_resume(train, tmp_path, trace, attack):
    train("SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 0).succeeded()
    torch.save({"model": CALLS[attack](trace), "iteration": 9}, tmp_path / "out/model_0000009.pth")
    (tmp_path / "out/last_checkpoint").write_text("model_0000009.pth")
    done = train("--resume", "SOLVER.MAX_ITER", 3).succeeded()
    assert "model_0000009.pth is refused: it wants to import" in done.output
    assert (tmp_path / "out/model_final.pth").exists()


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("name", ["hf-hub:evil/x", "local-dir:/evil"])
def test_a_backbone_elsewhere_that_weights_name_is_refused(tool, coco, tmp_path, name):
    config = f"MODEL: {{BACKBONE: {{NAME: build_timm_backbone}}, TIMM: {{NAME: {name!r}}}}}"
    content = {"model": {"w": torch.ones(1)}, "detector": {"config": config}}
    torch.save(content, tmp_path / "evil.pth")
    image = next(coco.image_root.iterdir())
    arguments = ("--image", image, "--output", tmp_path / "page.html")
    line = tool("compare", "--weights", tmp_path / "evil.pth", *arguments).refusal()
    assert f"evil.pth takes the model {name!r} (MODEL.TIMM.NAME) from elsewhere" in line
    assert "--trust-imports" in line


TAGS = {
    "apply": "!!python/object/apply:os.system ['touch {}']",
    "apply eval": "!!python/object/apply:eval [\"open('{}', 'w')\"]",
    "new": "!!python/object/new:os.system ['touch {}']",
    "object": "!!python/object:subprocess.Popen {{args: touch {}}}",
    "name": "!!python/name:os.system",
    "module": "!!python/module:antigravity",
}


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("command", ["train_net", "analyze_model", "convert_checkpoint", "demo"])
@pytest.mark.parametrize("tag", TAGS)
def test_tags_that_make_objects_are_refused_by_every_command(
    train, tool, tmp_path, trace, tag, command
):
    config = tmp_path / "evil.yaml"
    config.write_text(f"_BASE_: {CONFIG}\nSEED: {TAGS[tag].format(trace)}\n")
    arguments = {
        "analyze_model": ("--config-file", config),
        "convert_checkpoint": ("a.pth", "b.pth", "--config-file", config),
        "demo": ("--config-file", config, "--input", tmp_path, "--output", tmp_path / "pictures"),
    }
    if command == "train_net":
        done = train(config_file=config)
    else:
        done = tool(command, *arguments[command])
    assert "evil.yaml is refused: " in done.refusal()
    assert "configurations hold only data" in done.refusal()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "pictures").exists()


RECORDS = {
    "imports": ("IMPORTS: [evil_module]", "needs the modules evil_module .*--trust-imports"),
    "tag": (f"SEED: {TAGS['apply']}", "is (refused|not valid YAML)"),
    "base": ("_BASE_: /etc/passwd", "unknown configuration key _BASE_"),
}


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("command", ["demo", "evaluate", "convert_checkpoint", "analyze_model"])
@pytest.mark.parametrize("attack", RECORDS)
def test_the_configuration_in_a_checkpoint_executes_nothing(
    tool, tmp_path, trace, attack, command, monkeypatch
):
    line, refusal = RECORDS[attack]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text(f"open({str(trace)!r}, 'w')")
    config = f"{line.format(trace)}\nMODEL: {{META_ARCHITECTURE: LiteDETR}}\n"
    path = tmp_path / "evil.pth"
    torch.save({"model": {"w": torch.ones(1)}, "detector": {"config": config}}, path)
    arguments = {
        "demo": ("--weights", path, "--input", tmp_path, "--output", tmp_path / "pictures"),
        "evaluate": ("--weights", path, "--output", tmp_path / "out"),
        "convert_checkpoint": (path, tmp_path / "b.pth"),
        "analyze_model": ("--weights", path),
    }
    told = tool(command, *arguments[command]).refusal()
    assert re.search(rf"evil\.pth.*{refusal}|{refusal}.*evil\.pth", told)
    made = {x.name for x in tmp_path.iterdir() if not x.name.startswith(".")}
    assert made == {"evil.pth", "evil_module.py"}


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/evil.yaml",
        "https://127.0.0.1:1/evil.yaml",
        "ftp://127.0.0.1:1/evil.yaml",
        "file:///etc/passwd",
        "detectron2://evil.yaml",
    ],
)
def test_a_base_elsewhere_is_refused(train, tmp_path, url):
    config = tmp_path / "evil.yaml"
    config.write_text(f"_BASE_: {url}\n")
    line = train(config_file=config).refusal()
    assert f"{url} is not local" in line
    assert "REMOTE_BASE True" in line


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize(
    "name", ["../../x", "a/../../x", "/tmp/lite_focus_detr_x", "..", ".hidden", "a\0b"]
)
def test_a_data_set_cannot_be_named_out_of_the_output_folder(train, coco, tmp_path, name):
    coco.annotations[0].pop("area")  # so that a repaired copy would be written
    coco.save()
    entry = [[name, str(coco.json_file), str(coco.image_root)]]
    line = train("DATASETS.COCO", repr(entry), "DATASETS.TRAIN", repr((name,))).refusal()
    assert f"data set named {name!r}" in line
    assert not [x for x in tmp_path.rglob("*.json") if x != coco.json_file]


def archive(path, compression, size):
    """A checkpoint of zeros, written anew with compression."""
    torch.save({"model": {"w": torch.zeros(size // 4)}}, path)
    with zipfile.ZipFile(path) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", compression) as written:
        for name, content in members.items():
            written.writestr(name, content)


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2], ids=["deflated", "bzip2"]
)
def test_an_archive_that_inflates_is_refused(train, tmp_path, compression):
    archive(tmp_path / "bomb.pth", compression, 64 << 20)
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    line = train("--eval-only", "MODEL.WEIGHTS", tmp_path / "bomb.pth").refusal()
    assert "bomb.pth is refused: it has compressed" in line


@pytest.mark.fault(area="security", expected="refused")
def test_a_tensor_that_repeats_one_number_without_end_is_refused(train, tmp_path):
    torch.save({"model": {"w": torch.zeros(1).expand(1 << 40)}}, tmp_path / "bomb.pth")
    line = train("--eval-only", "MODEL.WEIGHTS", tmp_path / "bomb.pth").refusal()
    assert "bomb.pth is refused: model.w of shape (1099511627776,) is larger" in line


@pytest.mark.fault(area="security", expected="refused")
def test_yaml_aliases_that_multiply_are_refused(train, tmp_path):
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    line = train(config_file=tmp_path / "bomb.yaml").refusal()
    assert "bomb.yaml is refused: it has more than 16 YAML aliases" in line
