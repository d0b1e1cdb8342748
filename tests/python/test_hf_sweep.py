"""Every family on docs/transformers.md's list that asks for attention is still what it says there.

Outputs of all but the slow ones; gradients and generation, which take longer, of a sixteenth.
`hf_sweep.py --full` does all of it.
"""

import os

import pytest
import torch
import transformers

import hf_judge
import hf_sweep
from flashattn import hf

SHARES, SHARE = 16, 5  # of the families, which have gradients and generation here
# A second or so each, a third of the time; most are of images and have no masks.
SLOW = """
align chameleon chmv2 clap deimv2 depth_pro dots3_note dots3_note_text florence2 grounding-dino
janus mm-grounding-dino pe_audio pe_audio_encoder pp_doclayout_v2 pp_doclayout_v3
pp_doclayout_v4 pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_small_rec rt_detr rt_detr_v2
sam2 sam2_hiera_det_model sam2_vision_model tipsv2_dpt
"""


def test_every_family_is_as_listed():
    listed = {n: what for n, what in hf_sweep.listed().items() if what in ("right", "refused")}
    for name in SLOW.split():
        del listed[name]
    assert len(listed) > 500
    cores = len(os.sched_getaffinity(0))
    found = hf_sweep.sweep(listed, list(listed)[SHARE::SHARES], min(8, cores))
    # What was refused may have become right: the list is late then, not wrong.
    wrong = {n: found[n] for n in listed if found[n][0] not in ("right", listed[n])}
    assert not wrong


def test_no_family_is_missing_from_the_list():
    assert hf_sweep.listed().keys() == set(hf_sweep.families())
    assert "wrong" not in hf_sweep.listed().values()
    assert hf_sweep.LIST.read_text().startswith(hf_sweep.HEAD)


def test_the_sweep_notices_a_lost_mask(monkeypatch):
    transformers.logging.set_verbosity_error()
    hf_judge.register()

    def forgetful(module, query, key, value, attention_mask, **kwargs):
        hf_judge.calls.append(None)
        return hf.attention_forward(module, query, key, value, None, **kwargs)

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "fa_cpp", forgetful)
    for family in ("llama", "bart", "deepseek_v3", "gpt_oss"):
        outcome, why = hf_sweep.check(family, False)
        assert outcome == "wrong" and "plain: differs" in why


def test_the_sweep_notices_a_lost_gradient(monkeypatch):
    hf_judge.register()

    def detached(module, query, key, value, attention_mask, **kwargs):
        hf_judge.calls.append(None)
        return hf.attention_forward(module, query, key.detach(), value, attention_mask, **kwargs)

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "fa_cpp", detached)
    assert hf_sweep.check("llama", False)[0] == "right"
    outcome, why = hf_sweep.check("llama", True)
    assert outcome == "wrong" and "gradient" in why


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_families_with_attention_of_their_own_stay_with_it(family):
    hf_judge.register()
    assert hf_sweep.check(family, False) == ("not used", "")


@pytest.mark.parametrize(
    ("family", "note"),
    [("blt", hf_judge.HIDDEN), ("grounding-dino", hf_judge.BOOLEAN), ("clip", "")],
)
def test_where_eager_reads_masks_otherwise_the_list_says_so(family, note):
    hf_judge.register()
    outcome, why = hf_sweep.check(family, False)
    assert outcome == "right" and why.partition("; ")[2] == note


def test_another_reading_of_masks_excuses_nothing_else():
    hf_judge.reading.notes.clear()

    def eager():
        hf_judge.reading.notes.append(hf_judge.HIDDEN)
        return torch.ones(3)

    def judge(expected):
        hf_judge.compare("it", torch.zeros(3), expected)

    with pytest.raises(hf_judge.Wrong):
        hf_judge.beside(eager, judge)


def test_a_part_is_known_from_the_model_it_runs_in():
    hf_judge.register()
    whole = hf_sweep.check_with_parts("sam2", False)
    assert whole[0] == "right" and whole[2]["Sam2MaskDecoderConfig"] == "right"
    alone = hf_sweep.check_with_parts("sam2_mask_decoder", False)
    assert alone == ("untested", "no model class of its own", {})
    outcomes = hf_sweep.with_parts({"sam2_mask_decoder": alone, "sam2": whole})
    assert outcomes["sam2_mask_decoder"] == ("part", "of `sam2`: right")
    assert outcomes["sam2"] == whole[:2]


def test_dropped_padding_is_not_compared_away():
    """compare() sees one wrong element, a wrong shape, and a NaN."""
    a = torch.zeros(3, 4)
    a[0, 0] = 1
    hf_judge.compare("same", a, a.clone())
    for wrong in (a + torch.eye(3, 4) * 1e-2, a[:2], a.masked_fill(a == 0, torch.nan)):
        with pytest.raises(hf_judge.Wrong):
            hf_judge.compare("other", wrong, a)
