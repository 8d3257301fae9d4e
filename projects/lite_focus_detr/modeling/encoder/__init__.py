"""Encoders: modules that turn feature tokens into the decoder's memory."""

from .base import ENCODER_REGISTRY, Encoder, EncoderOutput, build_encoder
from .deformable import DeformableEncoder
from .layer import EncoderLayer

__all__ = [
    "ENCODER_REGISTRY",
    "DeformableEncoder",
    "Encoder",
    "EncoderLayer",
    "EncoderOutput",
    "build_encoder",
]
