"""Command-line tools, each run as ``python -m lite_focus_detr.tools.NAME``."""
