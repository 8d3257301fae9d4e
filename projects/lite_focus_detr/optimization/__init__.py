"""Trained detectors made faster for inference on the CPU, with the same detections."""

from .detector import optimize_as_configured, optimize_for_inference

__all__ = ["optimize_as_configured", "optimize_for_inference"]
