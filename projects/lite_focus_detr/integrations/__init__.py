"""The operators under models that somebody else wrote; needs PyTorch only."""

from .acceleration import Acceleration, accelerate
from .extension_modules import install_shims

__all__ = ["Acceleration", "accelerate", "install_shims"]
