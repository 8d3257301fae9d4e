"""The extension of Deformable-DETR, DINO and Mask2Former, by the operators of this package."""
# the name is that of the extension

from lite_focus_detr.integrations.extension_modules import (
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)

__all__ = ["ms_deform_attn_backward", "ms_deform_attn_forward"]
