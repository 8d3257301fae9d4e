"""Exported files in ONNX Runtime."""

from __future__ import annotations

import json
import logging
from typing import Any

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from . import native_attention
from .onnx_file import METADATA_KEY

logger = logging.getLogger(__name__)

#: What ONNX Runtime raises for files that it cannot run; they have no base of their own.
FILE_ERRORS = (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented)


def start_session(model: bytes | str) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, with as many threads as PyTorch has, and the native attention."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if native_attention.unavailable_reason() is None:
        try:
            native_attention.register_native_attention(options)
        except FILE_ERRORS as error:
            logger.warning("Files of the dialect native run without their kernels: %s", error)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_file(path: str) -> onnxruntime.InferenceSession:
    """A session of a file.

    Args:
        path: of a file that exists.

    Raises:
        ValueError: ONNX Runtime cannot run it.
    """
    try:
        return start_session(path)
    except FILE_ERRORS as error:
        raise ValueError(f"ONNX Runtime cannot read {path}: {error}") from error


def read_contents(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """What the file of a session says of itself; empty if it is not of :func:`export_onnx`."""
    contents: dict[str, Any] = json.loads(
        session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "{}")
    )
    return contents
