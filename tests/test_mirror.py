"""Every module of the package has a file with tests at the same place."""

from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "projects" / "lite_focus_detr"


def test_every_module_has_a_file_of_tests():
    missing = []
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert modules
    for path in modules:
        place = TESTS / path.relative_to(PACKAGE).with_name(f"test_{path.stem.strip('_')}.py")
        if not place.is_file() or "def test_" not in place.read_text():
            missing.append(str(place.relative_to(TESTS.parent)))
    assert missing == []
