"""Measurements of speed and memory; run ``lite-focus-detr benchmark``."""
