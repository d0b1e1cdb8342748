"""Inputs for a model of any family: the first kind that its eager attention accepts is taken."""

import inspect

import torch

from hf_families import IMAGE, VOCAB

BATCH, SEQLEN = 3, 20
MODES = ("plain", "right", "left", "packed")


def part(config, *names):
    """A field of the config or of its vision or backbone config."""
    for c in (config, *(getattr(config, n, None) for n in ("vision_config", "backbone_config"))):
        for name in names:
            value = getattr(c, name, None)
            if isinstance(value, int) or (isinstance(value, list | tuple) and value):
                return value
    return None


def padding(side):
    mask = torch.ones(BATCH, SEQLEN, dtype=torch.long)
    if side == "right":
        mask[0, 12:] = mask[1, 17:] = 0
    else:
        mask[0, :8] = mask[1, :3] = 0
    return mask


def text(model, parameters, mode, generator):
    """input_ids and what goes with them, or None where the model or the mode has none."""
    ids = torch.randint(7, VOCAB, (BATCH, SEQLEN), generator=generator)
    given = {"input_ids": ids}
    if mode in ("right", "left"):
        if "attention_mask" not in parameters:
            return None
        given["attention_mask"] = padding(mode)
    if mode == "packed":
        if "position_ids" not in parameters or "decoder_input_ids" in parameters:
            return None
        given["input_ids"] = ids[:1]
        given["position_ids"] = torch.cat((torch.arange(8), torch.arange(12)))[None]
    if getattr(model.config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters:
        # As long as the encoder's: a mask of keys must not be taken for one of queries.
        length = 7 if mode == "plain" else SEQLEN
        given["decoder_input_ids"] = torch.randint(7, VOCAB, (BATCH, length), generator=generator)
    return given


def kinds(model, mode):
    """Sets of keywords to try, one after the other."""
    generator = torch.Generator().manual_seed(3)
    parameters, config = inspect.signature(model.forward).parameters, model.config
    common = {"use_cache": False} if "use_cache" in parameters else {}
    size = part(config, "image_size") or IMAGE
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    channels = part(config, "num_channels", "in_channels", "in_chans") or 3
    image = torch.randn(BATCH, channels, height, width, generator=generator)
    words = None
    if "input_ids" in parameters:
        words = text(model, parameters, mode, generator)
        if words is None:
            return
        yield {**words, **common}
        if mode != "packed" and "bbox" in parameters:
            boxes = torch.arange(4).expand(BATCH, SEQLEN, 4).contiguous()
            yield {**words, **common, "bbox": boxes}
        if mode != "packed" and "pixel_values" in parameters:
            yield {**words, **common, "pixel_values": image}
    if mode != "plain":
        return
    if "pixel_values" in parameters:
        yield {**common, "pixel_values": image}
        yield {**common, "pixel_values": image[:, None].expand(-1, 4, -1, -1, -1).contiguous()}
    if "pixel_values_videos" in parameters:
        frames = part(config, "num_frames", "frames_per_clip") or 4
        video = image[:, None].expand(-1, frames, -1, -1, -1).contiguous()
        yield {**common, "pixel_values_videos": video}
    if "grid_thw" in parameters:  # images of several sizes, packed
        patch = part(config, "patch_size") or 8
        width = channels * (part(config, "temporal_patch_size") or 1) * patch**2
        grid = torch.tensor([[1, 4, 4], [1, 4, 8]])
        patches = torch.randn(48, width, generator=generator)
        yield {"hidden_states": patches, "grid_thw": grid}
        yield {"pixel_values": patches, "grid_thw": grid}
        yield {"pixel_values": patches, "grid_thw": grid, "merge_sizes": torch.tensor([2, 2])}
    bins = part(config, "num_mel_bins", "feature_size", "input_feat_per_channel") or 80
    if "input_values" in parameters:
        yield {**common, "input_values": torch.randn(BATCH, 2000, generator=generator)}
        length = part(config, "max_length") or 128
        yield {**common, "input_values": torch.randn(BATCH, length, bins, generator=generator)}
    if "input_features" in parameters:
        for shape in ((BATCH, bins, 256), (BATCH, 256, bins), (BATCH, 1, 64, bins)):
            yield {**common, "input_features": torch.randn(shape, generator=generator)}
