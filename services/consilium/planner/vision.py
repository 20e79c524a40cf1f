"""Parameters of the part that sees pictures, from the vision_config of a config.json.

Exact for Qwen3-VL and later and for Qwen2.5-VL; other towers are estimated from their widths. Does not know how many tokens a picture becomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def vision_params(config: Mapping[str, Any]) -> int:
    """Return the parameters of the vision tower; 0 where there is none or nothing is said."""
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping) or not vision:
        return 0
    try:
        if "out_hidden_size" in vision and "depth" in vision:
            return (
                _qwen2_5(vision)
                if "window_size" in vision or "qwen2_5" in str(vision.get("model_type", ""))
                else _qwen3(vision)
            )
        return _estimate(vision)
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0


def _qwen3(vision: Mapping[str, Any]) -> int:
    width, depth, inner, out = (
        int(vision[key]) for key in ("hidden_size", "depth", "intermediate_size", "out_hidden_size")
    )
    merged = width * int(vision.get("spatial_merge_size", 2)) ** 2
    mergers = 1 + len(vision.get("deepstack_visual_indexes") or [])
    block = 4 * width * width + 4 * width + 2 * width * inner + inner + width + 4 * width
    merger = merged * merged + merged + merged * out + out
    norms = 2 * width + (mergers - 1) * 2 * merged
    return (
        _patch(vision, width)
        + width
        + int(vision.get("num_position_embeddings", 0)) * width
        + depth * block
        + mergers * merger
        + norms
    )


def _qwen2_5(vision: Mapping[str, Any]) -> int:
    width, depth, inner, out = (
        int(vision[key]) for key in ("hidden_size", "depth", "intermediate_size", "out_hidden_size")
    )
    merged = width * int(vision.get("spatial_merge_size", 2)) ** 2
    block = 4 * width * width + 4 * width + 3 * width * inner + 2 * inner + width + 2 * width
    return (
        _patch(vision, width)
        + depth * block
        + width
        + merged * merged
        + merged
        + merged * out
        + out
    )


def _patch(vision: Mapping[str, Any], width: int) -> int:
    channels = int(vision.get("in_channels", vision.get("in_chans", 3)))
    return (
        channels
        * int(vision.get("temporal_patch_size", 2))
        * int(vision["patch_size"]) ** 2
        * width
    )


def _estimate(vision: Mapping[str, Any]) -> int:
    """Return attention and MLP of a plain tower: layers x (4 width^2 + 2 width x MLP width)."""
    width = int(vision.get("hidden_size") or vision.get("embed_dim") or 0)
    depth = int(vision.get("num_hidden_layers") or vision.get("depth") or 0)
    inner = int(vision.get("intermediate_size") or 4 * width)
    return depth * (4 * width * width + 2 * width * inner) + _patch(
        {"patch_size": 14, **vision, "temporal_patch_size": vision.get("temporal_patch_size", 1)},
        width,
    )
