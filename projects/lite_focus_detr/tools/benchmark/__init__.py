"""Measurements of speed and memory; run ``python -m lite_focus_detr.tools.benchmark``."""
