"""Configuration files that would run something, fetch something or fill the memory."""

import hashlib
import os

import pytest

from lite_focus_detr.config import download, load_config, safe_yaml

TAGS = {
    "apply": "!!python/object/apply:os.system ['touch {}']",
    "apply with a mapping": "!!python/object/apply:os.system {{args: ['touch {}']}}",
    "new": "!!python/object/new:os.system ['touch {}']",
    "object": "!!python/object:subprocess.Popen {{args: touch {}}}",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "whole tag": "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {}']",
    "eval": "!!python/object/apply:eval [\"open('{}', 'w')\"]",
    "tuple": "!!python/tuple [1, 2]",
    "own": "!run touch {}",
}


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("base", [False, True])
def test_tags_that_run_something_are_refused(tmp_path, tag, base):
    trace = tmp_path / "executed"
    (tmp_path / "evil.yaml").write_text("SEED: " + TAGS[tag].format(trace))
    (tmp_path / "leaf.yaml").write_text("_BASE_: evil.yaml")
    leaf = tmp_path / ("leaf.yaml" if base else "evil.yaml")
    with pytest.raises(ValueError, match=rf"{leaf.name} is refused: .*; config.* hold only data"):
        load_config(str(leaf))
    assert not trace.exists()


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize("url", ["http://h/a.yaml", "https://h/a.yaml", "ftp://h/a", "s3://h/a"])
@pytest.mark.parametrize("place", ["_BASE_", "list", "base of a base", "file"])
def test_addresses_are_refused_before_anything_is_fetched(tmp_path, monkeypatch, url, place):
    monkeypatch.setattr(safe_yaml, "download", lambda _: pytest.fail("fetched"))
    (tmp_path / "b.yaml").write_text(f"_BASE_: {url}")
    lines = {"_BASE_": f"_BASE_: {url}", "list": f"_BASE_: [b.yaml, '{url}']"}
    (tmp_path / "a.yaml").write_text(lines.get(place, "_BASE_: b.yaml"))
    file = url if place == "file" else str(tmp_path / "a.yaml")
    with pytest.raises(ValueError, match=f"{url} is not local: .*REMOTE_BASE True"):
        load_config(file)


@pytest.mark.fault(area="security", expected="refused")
def test_a_file_cannot_allow_itself_to_fetch(tmp_path):
    (tmp_path / "a.yaml").write_text("REMOTE_BASE: True\n_BASE_: http://h/a.yaml")
    with pytest.raises(ValueError, match="is not local"):
        load_config(str(tmp_path / "a.yaml"))


@pytest.mark.fault(area="security", expected="refused")
def test_with_the_option_an_address_needs_a_hash(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: http://h/a-0123abcd.yaml")
    with pytest.raises(ValueError, match="needs its hash: end it with #sha256="):
        load_config(str(tmp_path / "a.yaml"), ["REMOTE_BASE", "True"])


def test_with_the_option_and_its_hash_a_base_is_fetched(tmp_path, monkeypatch):
    base = b"MODEL: {DETR: {NUM_QUERIES: 17}}"
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))

    def fetch(url, path):
        assert url == "http://h/base.yaml"
        with open(path, "wb") as file:
            file.write(base)

    monkeypatch.setattr(download, "fetch", fetch)
    digest = hashlib.sha256(base).hexdigest()
    (tmp_path / "a.yaml").write_text(f"_BASE_: http://h/base.yaml#sha256={digest}\nSEED: 3")
    cfg = load_config(str(tmp_path / "a.yaml"), ["REMOTE_BASE", "True"])
    assert (cfg.MODEL.DETR.NUM_QUERIES, cfg.SEED) == (17, 3)


@pytest.mark.fault(area="security", expected="refused")
def test_aliases_that_multiply_are_refused(tmp_path):
    lines = ["a0: &a0 {x: 1}"] + [
        f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], y{i}: *a{i - 1}}}" for i in range(1, 40)
    ]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="more than 16 YAML aliases"):
        load_config(str(tmp_path / "a.yaml"))


def test_a_few_aliases_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("INPUT:\n  MIN_SIZE_TEST: &size 77\n  MAX_SIZE_TEST: *size\n")
    assert load_config(str(tmp_path / "a.yaml")).INPUT.MAX_SIZE_TEST == 77


@pytest.mark.fault(area="security", expected="refused")
def test_files_without_an_end_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_text("#" * (2 << 20))
    for file in ("/dev/zero", str(tmp_path / "pipe.yaml"), str(tmp_path / "large.yaml")):
        (tmp_path / "leaf.yaml").write_text(f"_BASE_: {file}")
        with pytest.raises(ValueError, match=f"{file} is (a device, not a file|refused)"):
            load_config(str(tmp_path / "leaf.yaml"))
