"""docs/architecture.md names the rooms and the letters that there are."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from lite_focus_detr.modeling import structures

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = ROOT / "projects" / "lite_focus_detr"


def rooms():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return folders | {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}


def test_every_room_of_the_package_is_in_the_table_and_in_the_figure():
    in_table = set(re.findall(r"^\| \d \| `(\w+)` \|", DOCUMENT, re.MULTILINE))
    figure = ElementTree.parse(ROOT / "docs" / "architecture.svg")
    texts = {element.text for element in figure.iter() if element.tag.endswith("}text")}
    assert in_table == rooms()
    assert rooms() <= texts


def test_rooms_import_only_from_floors_below():
    floors = {
        room: int(floor)
        for floor, room in re.findall(r"^\| (\d) \| `(\w+)` \|", DOCUMENT, re.MULTILINE)
    }
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).with_suffix("").parts
        if inside == ("__init__",):
            continue
        # Two dots per folder lead to the package.
        dots = r"\." * len(inside)
        imports = re.findall(
            rf"^from {dots}(?!\.)(?:(\w+)\S* import|\s*import (\w+))", path.read_text(), re.M
        )
        for names in imports:
            name = names[0] or names[1]
            if name in floors and name != inside[0]:
                assert floors[name] < floors[inside[0]], f"{path} imports {name}"


def test_the_letters_of_shapes_are_those_of_the_source():
    _, section = DOCUMENT.split("## Shapes")
    letters = set(re.findall(r"`([A-Z])`", section.partition("\n## ")[0]))
    in_source = re.findall(r"``([A-Z](?:, [A-Z])*)``", structures.__doc__)
    assert letters == {letter for group in in_source for letter in group.split(", ")}
