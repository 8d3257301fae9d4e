"""Encoders: modules that turn feature tokens into the decoder's memory."""

from ..structures import EncoderOutput, TokenQueries, TokenSelection
from .base import ENCODER_REGISTRY, Encoder
from .deformable import DeformableEncoder
from .focus import FocusEncoder
from .layer import EncoderLayer
from .lite import LiteEncoder
from .lite_focus import LiteFocusEncoder
from .sparse import SparseEncoder

__all__ = [
    "ENCODER_REGISTRY",
    "DeformableEncoder",
    "Encoder",
    "EncoderLayer",
    "EncoderOutput",
    "FocusEncoder",
    "LiteEncoder",
    "LiteFocusEncoder",
    "SparseEncoder",
    "TokenQueries",
    "TokenSelection",
]
