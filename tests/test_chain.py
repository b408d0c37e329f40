"""The refinements composed: order and places, law 7 (strength 0 is the identity), one look at the decoder, and nothing left behind."""

import numpy as np
import pytest
import torch
from rs_model import chain as chain_module
from rs_model.architecture import Architecture
from rs_model.chain import TOKEN_STEPS, Chain
from rs_model.phrases import build_tokenizer
from rs_model.refine.gates import QueryGate, save_query_gate
from rs_model.segmenter import PromptedSegmenter
from rs_model.stages import decode, fuse
from rs_model.tiny import TinySam3
from small_sam3 import small_full
from torch.nn import functional as F

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import load_settings
from rs_pipeline.errors import SegmenterError
from rs_pipeline.options import GUIDED

SIDE = 64
STEPS = (*TOKEN_STEPS, *GUIDED, "clip")
CLASSES = ClassSet((Class(1, "road", ("road", "street"), (0, 0, 0), 0.5), Class(2, "water", ("water",), (0, 0, 0), 0.5)))


class FakeClip:
    """Sees red as the first text and blue as the others, patch by patch."""

    def features(self, images):
        patches = F.adaptive_avg_pool2d(images[:, [0, 2]], 8).permute(0, 2, 3, 1)
        return F.normalize(patches, dim=-1)

    def proxy_features(self, images, tokens, grid):
        return self.features(images).flip(1)

    def encode_texts(self, names):
        return torch.stack([torch.tensor([1.0, 0.0] if name == "road" else [0.0, 1.0]) for name in names])


def tiny():
    torch.manual_seed(1)
    size = Architecture(width=16, heads=2, intermediate=32, text_layers=1, encoder_layers=1, decoder_layers=2, queries=4)
    return TinySam3(size, build_tokenizer()).eval()


@pytest.fixture(scope="module", params=["rs-tiny", "sam3"])
def model(request):
    return tiny() if request.param == "rs-tiny" else small_full()


def options_of(steps, *sets):
    text = f"refine.steps=[{','.join(steps)}]"
    return load_settings(sets=["device=cpu", "refine.preset=none", "scoring.absent_below=0", text, *sets]).options


def segment(model, steps, *sets, clip=None):
    options = options_of(steps, *sets)
    images = np.random.default_rng(3).random((2, 3, SIDE, SIDE), np.float32)
    loaded = PromptedSegmenter(model, Chain(options.refine, clip or FakeClip()), options, torch.device("cpu"))
    return loaded.segment(images, np.ones((2, SIDE, SIDE), bool), CLASSES)


@pytest.mark.parametrize("step", STEPS)
def test_law_7_strength_zero_is_the_identity_bit_for_bit(model, step):
    np.testing.assert_array_equal(segment(model, [step], f"refine.{step}.strength=0"), segment(model, []))


def test_law_7_all_at_strength_zero_too(model):
    nothing = [f"refine.{step}.strength=0" for step in STEPS]
    np.testing.assert_array_equal(segment(model, STEPS, *nothing), segment(model, []))


@pytest.mark.parametrize("place", ["encoder", "backbone"])
@pytest.mark.parametrize("step", TOKEN_STEPS)
def test_a_token_step_changes_the_scores_at_either_place(model, step, place):
    sets = ["scoring.presence_power=0"]
    more = [
        f"refine.{step}.at={place}",
        f"refine.{step}.strength=0.5",
        *(["refine.laplacian.temperature=2"] if step == "laplacian" else []),
    ]
    assert np.abs(segment(model, [step], *sets, *more) - segment(model, [], *sets)).max() > 1e-3


@pytest.mark.parametrize("step", GUIDED)
def test_a_guided_step_changes_the_scores(model, step):
    changed = np.abs(segment(model, [step], f"refine.{step}.strength=0.6", "scoring.instances=true") - segment(model, []))
    assert changed.max() > 1e-4


@pytest.mark.parametrize("by", ["presence", "position"])
def test_the_presence_gate_changes_the_semantic_map_either_way(model, by):
    sets = ("refine.presence_gate.strength=0.5", f"refine.presence_gate.by={by}", "scoring.instances=false")
    assert np.abs(segment(model, ["presence_gate"], *sets) - segment(model, [], "scoring.instances=false")).max() > 1e-4


def test_the_semantic_map_changes_under_reweight_not_the_instances_alone(model):
    """The semantic head never sees the decoder: unless it gets the refined tokens too, it cannot change (METHODS.md section 0)."""
    sets = ("scoring.instances=false", "scoring.presence_power=0")
    changed = segment(model, ["reweight"], *sets, "refine.reweight.strength=1") - segment(model, [], *sets)
    assert np.abs(changed).max() > 1e-3


def test_the_order_of_the_preset_is_kept(model):
    strengths = ("refine.smooth.strength=1", "refine.laplacian.strength=2", "refine.laplacian.temperature=0.3")
    sets = (*strengths, "refine.smooth.at=backbone", "refine.laplacian.at=backbone", "scoring.presence_power=0")
    one, other = segment(model, ["smooth", "laplacian"], *sets), segment(model, ["laplacian", "smooth"], *sets)
    assert np.abs(one - other).max() > 1e-4


def test_guided_steps_share_one_look_and_the_decoder_runs_twice(model, monkeypatch):
    calls = []

    def spy(sam, fused, *, attention=False):
        calls.append(attention)
        return decode(sam, fused, attention=attention)

    monkeypatch.setattr(chain_module, "decode", spy)
    segment(model, ["reweight", "presence_gate", "query_gate", "prune"])
    assert calls == [True, False]
    calls.clear()
    segment(model, ["smooth"])
    assert calls == [False]


@torch.no_grad()
def test_attention_is_there_when_asked_for_and_the_decoder_is_left_as_it_was(model):
    sam = model.head
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    fused = fuse(sam, model.encode_images(model.fit(images)[0]), model.encode_text(["road", "water"]))
    before, looked, after = decode(sam, fused), decode(sam, fused, attention=True), decode(sam, fused)
    layers, queries = len(sam.detr_decoder.layers), sam.detr_decoder.config.num_queries
    heads = sam.detr_decoder.config.num_attention_heads
    assert looked.attention.shape == (4, layers, heads, 1 + queries, fused.tokens.shape[1])
    torch.testing.assert_close(looked.attention.sum(-1), torch.ones(4, layers, heads, 1 + queries))
    torch.testing.assert_close(looked.queries, before.queries, atol=1e-4, rtol=1e-4)
    assert before.attention is None
    assert torch.equal(before.queries, after.queries)


def test_pruning_leaves_no_hook_and_the_next_run_is_whole(model):
    whole = segment(model, [])
    segment(model, ["prune"], "refine.prune.strength=0.7")
    assert all(not layer._forward_pre_hooks for layer in model.head.detr_decoder.layers)
    np.testing.assert_array_equal(segment(model, []), whole)


def test_a_trained_query_gate_comes_from_its_file(model, tmp_path):
    torch.manual_seed(0)
    gate = QueryGate(model.head.config.detr_encoder_config.hidden_size)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    save_query_gate(gate, tmp_path / "gate.safetensors")
    sets = ("refine.query_gate.by=mlp", f"refine.query_gate.weights={tmp_path / 'gate.safetensors'}", "refine.query_gate.strength=1")
    by_attention = segment(model, ["query_gate"], "refine.query_gate.strength=1")
    assert np.abs(segment(model, ["query_gate"], *sets) - by_attention).max() > 1e-5


def test_a_gate_of_another_model_is_refused_when_it_is_loaded(model, tmp_path):
    save_query_gate(QueryGate(99), tmp_path / "gate.safetensors")
    sets = ("refine.query_gate.by=mlp", f"refine.query_gate.weights={tmp_path / 'gate.safetensors'}")
    with pytest.raises(SegmenterError, match="one of 99"):
        segment(model, ["query_gate"], *sets)


class FourTexts(FakeClip):
    """A direction of its own for each text and each quarter of the image."""

    names = ("road", "street", "water", "sky")

    def features(self, images):
        quarter = torch.arange(4).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
        return F.one_hot(quarter, 4).float().expand(len(images), 8, 8, 4)

    def proxy_features(self, images, tokens, grid):
        return tokens.new_ones(len(images), 8, 8, 4) / 2

    def encode_texts(self, names):
        return F.one_hot(torch.tensor([self.names.index(name) for name in names]), 4).float()


def test_each_class_meets_its_own_texts_and_contrast_meets_none(model):
    got = segment(model, ["clip"], "refine.clip.strength=1", "refine.clip.scale=100", "refine.clip.contrast=[sky]", clip=FourTexts())
    corners = got[0, :, [4, 4, SIDE - 5, SIDE - 5], [4, SIDE - 5, 4, SIDE - 5]]
    assert corners.round(2).tolist() == [[1, 0], [1, 0], [0, 1], [0, 0]], "road, street, water, sky; clockwise by rows"


def test_a_contrast_text_that_is_asked_for_is_not_held_against_itself(model):
    sets = ("refine.clip.strength=1", "refine.clip.scale=1")
    alone = segment(model, ["clip"], *sets, "refine.clip.contrast=[sky]", clip=FourTexts())
    named = segment(model, ["clip"], *sets, "refine.clip.contrast=[road, sky, water]", clip=FourTexts())
    np.testing.assert_array_equal(named, alone)


def test_the_gate_looks_at_clips_own_features_even_in_the_proxy_form(model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        chain_module, "agreement", lambda tokens, grid, features: seen.append(features) or features[..., :1].permute(0, 3, 1, 2)
    )
    segment(model, ["clip"], "refine.clip.fusion=proxy", "refine.clip.gate=true", clip=FourTexts())
    assert torch.equal(seen[0], FourTexts().features(seen[0]))


def test_clip_constrains_the_class_maps_log_linearly(model):
    plain, all_clip = segment(model, []), segment(model, ["clip"], "refine.clip.strength=1")
    half = segment(model, ["clip"], "refine.clip.strength=0.5")
    np.testing.assert_allclose(half, np.sqrt(np.maximum(plain, 1e-6) * np.maximum(all_clip, 1e-6)), atol=2e-3)


def test_the_proxy_form_uses_other_features_and_the_gate_weakens(model):
    forms = [
        segment(model, ["clip"], *sets, "refine.clip.strength=0.8")
        for sets in ((), ("refine.clip.fusion=proxy",), ("refine.clip.gate=true",))
    ]
    assert np.abs(forms[0] - forms[1]).max() > 0.01
    plain = segment(model, [])
    assert np.abs(forms[2] - plain).mean() < np.abs(forms[0] - plain).mean()


def test_contrast_texts_take_probability_from_the_classes(model):
    sets = ("refine.clip.strength=1", "refine.clip.scale=1")
    alone, contrasted = segment(model, ["clip"], *sets), segment(model, ["clip"], *sets, "refine.clip.contrast=[sky, cloud]")
    assert (contrasted < alone).all()
