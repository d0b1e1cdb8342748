"""Inputs for a model of any family: the first kind that its eager attention accepts is taken."""

import inspect

import torch

from hf_fields import IMAGE, VOCAB

BATCH, SEQLEN = 3, 20
MODES = ("plain", "right", "left", "packed")
PARTS = ("vision_config", "backbone_config", "text_config", "audio_config", "encoder_config")


def part(config, *names):
    """A field of the config or of one of its parts."""
    for c in (config, *(getattr(config, n, None) for n in PARTS)):
        for name in names:
            value = getattr(c, name, None)
            if isinstance(value, int) or (isinstance(value, list | tuple) and value):
                return value
    return None


def padding(side, seqlen=SEQLEN):
    mask = torch.ones(BATCH, seqlen, dtype=torch.long)
    short, shorter = seqlen * 3 // 20, seqlen * 8 // 20
    if side == "right":
        mask[0, seqlen - shorter :] = mask[1, seqlen - short :] = 0
    elif side == "left":
        mask[0, :shorter] = mask[1, :short] = 0
    return mask


def end_of_text(config):
    """The id that ends a text, where no other token has the same id in the small config."""
    config = getattr(config, "text_config", None) or config
    end = getattr(config, "eos_token_id", None)
    others = [
        v for n, v in vars(config).items() if "token" in n and not n.startswith(("eos", "bos"))
    ]
    return end if isinstance(end, int) and 0 < end < VOCAB and end not in others else None


def text(model, parameters, mode, generator):
    """input_ids and what goes with them, or None where the model or the mode has none."""
    ids = torch.randint(7, VOCAB, (BATCH, SEQLEN), generator=generator)
    end = end_of_text(model.config)
    if end is not None:  # some models take their output from there
        ids[torch.arange(BATCH), padding(mode).cumsum(-1).argmax(-1)] = end
    given = {"input_ids": ids}
    if mode in ("right", "left"):
        if "attention_mask" not in parameters:
            return None
        given["attention_mask"] = padding(mode)
        pad = getattr(model.config, "pad_token_id", None) or 0
        given["input_ids"] = ids.masked_fill(padding(mode) == 0, pad if 0 <= pad < 7 else 0)
        if hasattr(model.config, "canvas_length"):  # what is written sees the words that are there
            canvas = torch.ones(BATCH, model.config.canvas_length, dtype=torch.long)
            given["decoder_attention_mask"] = torch.cat((padding(mode), canvas), dim=-1)
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


class Maker:
    """Values for the arguments of a model's forward, by their names."""

    def __init__(self, model, mode):
        self.config, self.mode = model.config, mode
        self.generator = torch.Generator().manual_seed(3)
        self.parameters = inspect.signature(model.forward).parameters
        self.channels = self.number("num_channels", "in_channels", "in_chans") or 3
        self.patch = self.number("patch_size") or 8
        self.width = self.number("hidden_size", "d_model", "embed_dim", "dim") or 64
        self.frames = self.number("num_frames", "frames_per_clip") or 4
        size = part(self.config, "image_size", "img_size") or IMAGE
        self.size = (size, size) if isinstance(size, int) else (size[0], size[-1])

    def number(self, *names):
        value = part(self.config, *names)
        return value if value is None or isinstance(value, int) else value[-1]

    def __contains__(self, name):
        return name in self.parameters

    def randn(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def ids(self, *shape):
        return torch.randint(7, VOCAB, shape, generator=self.generator)

    def image(self, size=None):
        return self.randn(BATCH, self.channels, *(size or self.size))

    def video(self, frames):
        return self.image()[:, None].expand(-1, frames, -1, -1, -1).contiguous()

    def hidden(self):
        return self.randn(BATCH, SEQLEN, self.width)

    def completed(self, given):
        """`given` with the arguments that have no default; None where one is not known."""
        for name, parameter in self.parameters.items():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if not named or parameter.default is not parameter.empty or name in given:
                continue
            if name not in REQUIRED:
                return None
            given = {**given, name: REQUIRED[name](self)}
        return given


REQUIRED = {
    "input_ids": lambda m: m.ids(BATCH, SEQLEN),
    "qformer_input_ids": lambda m: m.ids(BATCH, 6),
    "decoder_input_ids": lambda m: m.ids(BATCH, SEQLEN),
    "attention_mask": lambda m: padding(m.mode),
    "mask": lambda m: padding(m.mode).bool(),
    "query_embeds": Maker.hidden,
    "inputs_embeds": Maker.hidden,
    "noise_embeds": Maker.hidden,
    "context": Maker.hidden,
    "context_hidden_states": Maker.hidden,
    "hidden_states": Maker.hidden,
    "encoder_hidden_states": Maker.hidden,
    "pixel_values": Maker.image,
    "pixel_values_videos": lambda m: m.video(m.frames),
    "image": Maker.image,
    "prompt_pixel_values": lambda m: m.image((m.size[0] // 2, m.size[1])),
    "prompt_masks": lambda m: m.image((m.size[0] // 2, m.size[1])),
    "state": lambda m: m.randn(BATCH, m.number("max_state_dim") or 32),
    "aspect_ratio_ids": lambda m: torch.ones(BATCH, 1, dtype=torch.long),
    "aspect_ratio_mask": lambda m: torch.ones(BATCH, 1, 4, dtype=torch.long),
}


def beside_words(make):
    """What a model may want with its words, or in their place."""
    yield from of_images(make)
    yield from of_sound(make, "plain")
    if "bbox" in make:
        boxes = torch.arange(4).expand(BATCH, SEQLEN, 4).contiguous()
        yield {"bbox": boxes}
        yield {"bbox": boxes / 4}
    if "encoder_hidden_states" in make:
        yield {"encoder_hidden_states": make.hidden()}
    if "flattened_patches" in make:
        width = make.number("patch_embed_hidden_size") or 3 * make.patch**2
        places = torch.cartesian_prod(torch.arange(1, 5), torch.arange(1, 6)).expand(BATCH, -1, -1)
        patches = torch.cat((places, make.randn(BATCH, SEQLEN, width)), dim=-1)
        yield {"flattened_patches": patches}
    if "image_attention_mask" in make:
        seen = torch.ones(BATCH, SEQLEN, 2, dtype=torch.long)
        yield {"pixel_values": make.video(2), "image_attention_mask": seen}
    if "image_embeds_position_mask" in make:
        places = (torch.arange(SEQLEN) < make.number("latent_query_num")).expand(BATCH, -1)
        yield {"pixel_values": make.image(), "image_embeds_position_mask": places}
    if "visual_feats" in make:
        width = make.number("visual_feat_dim") or 64
        yield {
            "visual_feats": make.randn(BATCH, 9, width),
            "visual_pos": make.randn(BATCH, 9, 4),
        }


def of_text(model, make):
    """Kinds with input_ids, of all modes."""
    words = text(model, make.parameters, make.mode, make.generator)
    if words is None:
        return
    yield words
    codebooks = getattr(getattr(make.config, "decoder", None), "num_codebooks", None)
    if codebooks and "decoder_input_ids" in words:
        yield {**words, "decoder_input_ids": make.ids(BATCH * codebooks, SEQLEN)}
    if make.mode == "plain":  # one for each codebook
        yield {"input_ids": words["input_ids"][:, :4]}
    if make.mode != "packed":
        for more in beside_words(make):
            yield {**words, **more}


def of_embeddings(make):
    """Kinds with vectors in the place of words."""
    for name in ("inputs_embeds", "hidden_states", "query_embeds"):
        if name not in make:
            continue
        given = {name: make.hidden()}
        if name == "hidden_states":
            given[name] = make.randn(
                BATCH, SEQLEN, make.number("input_dim", "input_size") or make.width
            )
        if make.mode in ("right", "left"):
            if "attention_mask" not in make:
                continue
            given["attention_mask"] = padding(make.mode)
        if make.mode == "packed":
            if "position_ids" not in make:
                continue
            given = {name: given[name][:1]}
            given["position_ids"] = torch.cat((torch.arange(8), torch.arange(12)))[None]
        yield given
        if "encoder_hidden_states" in make:
            yield {**given, "encoder_hidden_states": make.hidden()[: len(given[name])]}


def of_images(make):
    if "pixel_values" in make:
        yield {"pixel_values": make.image()}
        for frames in (make.frames, 2):  # a film, or a pair to be matched
            yield {"pixel_values": make.video(frames)}
        for size in ((64, 64), (128, 128), (48, 320)):  # what is halved often
            yield {"pixel_values": make.image(size)}
        if "prompt_pixel_values" in make:  # which stands above the image
            yield {"pixel_values": make.image((make.size[0] // 2, make.size[1]))}
        if "aspect_ratio_ids" in make:
            yield {"pixel_values": make.video(4)[:, None]}
    if "pixel_values_videos" in make:
        yield {"pixel_values_videos": make.video(make.frames)}


def of_patches(make):
    """Images cut into patches: each with its positions, or of several sizes and packed."""
    area = make.channels * make.patch**2
    for temporal in dict.fromkeys((make.number("temporal_patch_size") or 1, 1, 2)):
        grid = torch.tensor([[1, 4, 4], [1, 4, 8]])
        patches = make.randn(48, area * temporal)
        for name in ("grid_thw", "image_grid_thw"):
            if name in make:
                yield {"hidden_states": patches, name: grid}
                yield {"pixel_values": patches, name: grid}
                yield {"pixel_values": patches, name: grid, "merge_sizes": torch.tensor([2, 2])}
    if "grid_thw" in make:
        whole = make.randn(48, make.channels, make.patch, make.patch)
        yield {"pixel_values": whole, "grid_thw": grid}
        yield {"pixel_values": whole[None], "grid_thw": grid}
    if "target_sizes" in make:
        row = make.randn(1, make.channels, make.patch, 48 * make.patch)
        yield {"pixel_values": row, "target_sizes": torch.tensor([[4, 4], [4, 8]])}
    patches = make.randn(BATCH, 16, area)
    if "pixel_values" in make:
        yield {"pixel_values": patches}
        yield {"pixel_values": make.randn(BATCH, 64, area)}
    if "spatial_shapes" in make:
        ones, shapes = torch.ones(BATCH, 16, dtype=torch.long), torch.tensor([[4, 4]] * BATCH)
        more = {"pixel_values": patches, "pixel_attention_mask": ones, "spatial_shapes": shapes}
        yield more
        if "input_ids" in make:
            yield {"input_ids": make.ids(BATCH, SEQLEN), **more}
    if "pixel_position_ids" in make:
        places = torch.cartesian_prod(torch.arange(4), torch.arange(4)).expand(BATCH, -1, -1)
        yield {"pixel_values": patches, "pixel_position_ids": places}


BINS = ("num_mel_bins", "feature_size", "input_feat_per_channel")
# Where the config does not say.
OTHER_BINS = (80, 128, 160, 320, 560)


def of_sound(make, mode):
    """Waves and spectra, with a mask where padding is asked for."""
    shapes = []
    bins = dict.fromkeys((make.number(*BINS) or 80, *OTHER_BINS))
    if "input_values" in make:
        length = make.number("max_length") or 128
        waves = [
            (BATCH, 2000),
            (BATCH, 1920),
            (BATCH, 1, 2000),
            *((BATCH, length, n) for n in bins),
        ]
        shapes += [("input_values", s) for s in waves]
    for name in ("input_features", "audio_mel"):
        if name in make:
            for n in bins:
                spectra = [(BATCH, *s) for m in (256, 100, 160) for s in ((n, m), (m, n))]
                spectra.append((BATCH, 1, 64, n))
                shapes += [(name, s) for s in spectra]
    for name, shape in shapes:
        given = {name: make.randn(*shape)}
        if "decoder_input_ids" in make:
            given["decoder_input_ids"] = make.ids(BATCH, 7)
        if mode == "plain":
            yield given
        for mask_name in (
            "attention_mask",
            "input_features_mask",
            "padding_mask",
            "audio_mel_mask",
        ):
            if mask_name in make:
                for length in dict.fromkeys(shape[1:3]):
                    mask = padding(mode, length)
                    yield {**given, mask_name: mask.bool() if name == "audio_mel" else mask}
    if mode == "plain" and "feature_lens" in make:
        lengths = {"feature_lens": torch.tensor([120, 80]), "aftercnn_lens": torch.tensor([60, 40])}
        for n in bins:
            yield {"input_features": make.randn(n, 200), **lengths}


def of_series(make):
    """Values over time."""
    if "past_values" not in make:
        return
    length = make.number("context_length") or 32
    lags = part(make.config, "lags_sequence")
    if lags:
        past, future = length + max(lags), make.number("prediction_length")
        features = make.config.num_time_features
        yield {
            "past_values": make.randn(BATCH, past),
            "past_time_features": make.randn(BATCH, past, features),
            "past_observed_mask": torch.ones(BATCH, past),
            "future_values": make.randn(BATCH, future),
            "future_time_features": make.randn(BATCH, future, features),
        }
    channels = make.number("num_input_channels") or 1
    yield {"past_values": make.randn(BATCH, length, channels)}
    series = make.randn(BATCH, 128)
    given = {"past_values": series}
    if "past_values_padding" in make:
        given["past_values_padding"] = torch.zeros(BATCH, 128, dtype=torch.long)
    if "freq" in make:
        given["freq"] = torch.zeros(BATCH, 1, dtype=torch.long)
    yield given
    yield {"past_values": list(series)}


def kinds(model, mode):
    """Sets of keywords to try, one after the other."""
    make = Maker(model, mode)
    common = {"use_cache": False} if "use_cache" in make else {}
    for given in unfinished_kinds(model, make, mode):
        whole = make.completed({**common, **given})
        if whole is not None:
            yield whole


def unfinished_kinds(model, make, mode):
    if "input_ids" in make:
        yield from of_text(model, make)
    if mode != "packed":
        yield from of_sound(make, mode)
    if mode == "plain":
        decoder = {"decoder_input_ids": make.ids(BATCH, 7)} if "decoder_input_ids" in make else {}
        for given in beside_words(make):
            yield {**given, **decoder}
        yield from of_patches(make)
        yield from of_series(make)
    yield from of_embeddings(make)
    if mode == "plain":
        yield {}
