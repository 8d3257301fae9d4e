"""The configuration: keys and defaults, loading of files, checks."""

from .loading import (
    ConfigFile,
    SavedConfig,
    add_lite_focus_detr_config,
    import_modules,
    load_config,
    merge_config,
)
from .schedule import learning_rate_advice
from .validation import require_registered, validate_config

__all__ = [
    "ConfigFile",
    "SavedConfig",
    "add_lite_focus_detr_config",
    "import_modules",
    "learning_rate_advice",
    "load_config",
    "merge_config",
    "require_registered",
    "validate_config",
]
