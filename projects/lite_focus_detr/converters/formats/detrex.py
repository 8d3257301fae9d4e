"""detrex (https://github.com/IDEA-Research/detrex): Deformable DETR, DN-Deformable-DETR, DINO."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..checkpoint_format import CheckpointFormat, Options, Rules, has_keys, rename_by

DETREX_RULES: Rules = (
    (r"^neck\.convs\.(\d)\.conv\.", r"neck.input_proj.\1.0."),
    (r"^neck\.convs\.(\d)\.norm\.", r"neck.input_proj.\1.1."),
    # The one extra level comes after the three of the backbone.
    (r"^neck\.extra_convs\.0\.conv\.", "neck.input_proj.3.0."),
    (r"^neck\.extra_convs\.0\.norm\.", "neck.input_proj.3.1."),
    (r"^transformer\.level_embeds$", "neck.level_embed"),
    (r"^(transformer\.decoder\.)?(class|bbox)_embed\.", r"heads.\2_embed."),
    (r"^transformer\.enc_output", "proposal_head.enc_output"),
    (r"^transformer\.(encoder|decoder)\.", r"\1."),
    (r"^((?:en|de)coder\.layers\.\d+)\.ffns\.0\.layers\.0\.0\.", r"\1.linear1."),
    (r"^((?:en|de)coder\.layers\.\d+)\.ffns\.0\.layers\.1\.", r"\1.linear2."),
    (r"^(encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"^(encoder\.layers\.\d+)\.norms\.0\.", r"\1.norm1."),
    (r"^(encoder\.layers\.\d+)\.norms\.1\.", r"\1.norm2."),
    (r"^(decoder\.layers\.\d+)\.attentions\.0\.attn\.", r"\1.self_attn."),
    (r"^(decoder\.layers\.\d+)\.attentions\.1\.", r"\1.cross_attn."),
    # detrex numbers the norms by their order, the original by their history.
    (r"^(decoder\.layers\.\d+)\.norms\.0\.", r"\1.norm2."),
    (r"^(decoder\.layers\.\d+)\.norms\.1\.", r"\1.norm1."),
    (r"^(decoder\.layers\.\d+)\.norms\.2\.", r"\1.norm3."),
    (r"^query_embedding\.", "query_selector.query_embed."),
    (r"^transformer\.(reference_points|pos_trans)", r"query_selector.\1"),
    (r"^(transformer\.)?(tgt_embed|refpoint_embed)\.", r"query_selector.\2."),
    (r"^(label_enc|denoising_generator\.label_encoder)\.", "denoising.label_enc."),
)

#: Of MODEL.DETR.POSITION; the weights do not tell which.
POSITIONS = ({"TEMPERATURE": 10000.0, "OFFSET": -0.5}, {"TEMPERATURE": 20.0, "OFFSET": 0.0})


def _settings(keys: Collection[str], options: Options) -> Mapping[str, object]:
    settings: dict[str, object] = {
        "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-3,
        "MODEL.DETR.BOX_REFINE": "transformer.decoder.bbox_embed.0.layers.0.weight" in keys,
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": "transformer.pos_trans.weight" in keys,
        "MODEL.DETR.QUERY_SELECTION": "learned",
    }
    if "transformer.pos_trans.weight" in keys:
        settings["MODEL.DETR.QUERY_SELECTION"] = "two_stage"
    if "transformer.tgt_embed.weight" in keys:
        # Its DINO was trained for 12 epochs with the first and for longer with the second.
        settings["MODEL.DETR.QUERY_SELECTION"] = "mixed"
        settings["MODEL.DETR.POSITION"] = POSITIONS
    else:
        settings["MODEL.DETR.POSITION"] = POSITIONS[0]
    return settings


DETREX = CheckpointFormat(
    name="detrex",
    recognises=has_keys("neck.convs.0.conv.weight", "transformer.level_embeds"),
    rename=rename_by(DETREX_RULES),
    settings=_settings,
)
