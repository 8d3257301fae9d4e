"""Commands leave the logging of the tests alone."""

import pytest

from lite_focus_detr.tools import visualize


@pytest.fixture(autouse=True)
def _keep_logging_as_it_is(monkeypatch):
    # Its handlers would outlive the captured streams of a test.
    monkeypatch.setattr(visualize, "setup_logger", lambda **_: None)
