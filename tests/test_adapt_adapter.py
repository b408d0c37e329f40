"""Adapters: the identity at the start, gradients where they should be and nowhere else, files that give back what was learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from adapting import ALL_LOSSES, ALL_MODULES, NoiseTiles, settings
from rs_model.adapt.adapter import Adapter, put_on
from rs_model.adapt.alignment import SHARPEST, CrossModal, DecoderAlignment, Feedback, FirstLook, SsaLite
from rs_model.adapt.forward import see, see_tokens
from rs_model.adapt.low_rank import LowRank, merge_low_rank
from rs_model.adapt.objective import Objective
from rs_model.adapt.parts import low_rank_layers, neck_parameters
from rs_model.adapt.views import draw_views
from rs_model.stages import Prompts
from rs_model.tiny import load_tiny
from rs_model.weights import SHIPPED
from small_sam3 import small_full

from rs_pipeline.errors import SegmenterError

WORDS = ("road", "water")


def make(name):
    return load_tiny(SHIPPED).eval() if name == "rs-tiny" else small_full()


def images_for(name, seed=0):
    side = 96 if name == "rs-tiny" else 56
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def text(rows=3, tokens=5, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    mask[0, 3:] = False
    return Prompts(torch.randn(rows, tokens, width, generator=generator), mask)


def tokens(rows=3, n=12, width=16):
    return torch.randn(rows, n, width, generator=torch.Generator().manual_seed(1))


models = pytest.mark.parametrize("name", ["rs-tiny", "sam3"])


@models
@torch.no_grad()
def test_a_new_adapter_changes_no_bit(name):
    model, images = make(name), images_for(name)
    prompts = model.encode_text(WORDS)
    before = see(model, None, images, prompts)
    adapter = Adapter(model, settings(ALL_MODULES, ALL_LOSSES))
    after = see(model, adapter.alignment, images, prompts)
    assert torch.equal(after.probability, before.probability)
    assert torch.equal(after.fused.tokens, before.fused.tokens)
    assert torch.equal(after.scores, before.scores)


@models
def test_a_gradient_reaches_every_trained_parameter_and_the_rest_keeps_its_bits(name):
    model = make(name)
    frozen_before = {n: t.clone() for n, t in model.state_dict().items()}
    chosen = settings(ALL_MODULES, ALL_LOSSES, {"losses": {"consistency": {"sure": 0.500001}}})
    adapter = Adapter(model, chosen)
    parameters = adapter.parameters()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.05)
    views = draw_views(NoiseTiles(side=96), np.arange(4), 96 if name == "rs-tiny" else 56, 2, np.random.default_rng(0))
    prompts = Prompts(*(t.detach() for t in _parts(model.encode_text(WORDS))))
    objective = Objective(adapter, chosen)
    reached = set()
    for turn in range(3):  # what stands behind a projection that starts at 0 hears of the loss after its first step
        with torch.no_grad():
            taught = objective.teach(views, prompts)
            with adapter.holding(adapter.plain()):
                taught = replace(taught, before=objective.plain_tokens(views, prompts))
        taught = _surely(taught, views)
        losses = objective.losses(views, prompts, taught, 1.0, torch.Generator().manual_seed(turn))
        assert set(losses) == {"consistency", "importance", "contrast", "boundary", "distill", "text_image"}
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        reached |= {n for n, p in parameters.items() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
        adapter.constrain()
    assert reached == set(parameters)
    trained = {id(p) for p in parameters.values()}
    assert all(p.requires_grad == (id(p) in trained) for p in model.parameters())
    now = dict(model.state_dict())
    for layer in low_rank_layers_of(adapter):
        now = {n.replace(f"{layer}.base.", f"{layer}."): t for n, t in now.items()}
    neck = set(neck_parameters(model))
    for key, value in frozen_before.items():
        assert key in neck or torch.equal(now[key], value), key


def low_rank_layers_of(adapter):
    # SAM 3's image encoder hangs in the model twice, by two names.
    return [n for name in adapter.low_rank for n in (name, f"head.vision_encoder.{name}")]


def _parts(prompts):
    return prompts.features, prompts.mask


def _surely(taught, views):
    """A teacher that is sure: of the left half yes, of the right half no, whatever a random model says."""
    probability = torch.zeros_like(taught.probability)
    probability[..., : probability.shape[-1] // 2] = 0.99
    return replace(taught, probability=probability, presence=torch.ones_like(taught.presence))


@models
@torch.no_grad()
def test_what_an_adapter_file_holds_gives_the_trained_model_back(name):
    model, images = make(name), images_for(name)
    chosen = settings(ALL_MODULES)
    adapter = Adapter(model, chosen)
    generator = torch.Generator().manual_seed(3)
    for parameter in adapter.parameters().values():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    prompts = model.encode_text(WORDS)
    trained = see(model, adapter.alignment, images, prompts).probability
    values = {n: p.detach().clone() for n, p in adapter.parameters().items()}
    tensors = adapter.tensors(values)
    assert not any(n.startswith("loss.") for n in tensors)
    plain = see(make(name), None, images, prompts).probability
    fresh = make(name)
    worn = see(fresh, put_on(fresh, chosen, tensors), images, prompts).probability
    assert not torch.allclose(plain, trained, atol=1e-4)
    torch.testing.assert_close(worn, trained, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_feedback_can_be_left_out_at_inference():
    chosen = settings({"align": {"encoder": {"use": False}, "decoder": {"use": False}, "feedback": {"use": True}}})
    model, images = make("rs-tiny"), images_for("rs-tiny")
    prompts = model.encode_text(WORDS)
    plain = see(model, None, images, prompts).probability
    adapter = Adapter(model, chosen)
    adapter.alignment.feedback.gain.fill_(0.5)
    tensors = adapter.tensors({n: p.detach().clone() for n, p in adapter.parameters().items()})
    with_it = put_on(make("rs-tiny"), chosen, tensors)
    without = put_on(make("rs-tiny"), chosen, tensors, feedback=False)
    assert not torch.equal(see(model, with_it, images, prompts).probability, plain)
    assert torch.equal(see(model, without, images, prompts).probability, plain)


def test_tensors_of_another_model_are_refused():
    model, other = small_full(), make("rs-tiny")
    adapter = Adapter(model, settings())
    tensors = adapter.tensors({n: p.detach() for n, p in adapter.parameters().items()})
    with pytest.raises(SegmenterError, match="tensors of its settings"):
        put_on(other, settings(), tensors)


@torch.no_grad()
def test_a_merged_low_rank_layer_is_the_layer_with_its_addition():
    layer = torch.nn.Linear(8, 6)
    low = LowRank(layer, 3, 0.5)
    low.up.normal_()
    x = torch.randn(4, 8)
    expected = low(x)
    merge_low_rank(layer, low.down, low.up, 0.5)
    torch.testing.assert_close(layer(x), expected)


def test_low_rank_layers_are_the_queries_and_values_of_the_image_side():
    sam = set(low_rank_layers(small_full()))
    assert sam == {f"backbone.layers.{i}.attention.{part}_proj" for i in (0, 1) for part in "qv"}
    assert all(name.startswith("head.detr_encoder.") and name.endswith(("q_proj", "v_proj")) for name in low_rank_layers(make("rs-tiny")))


def test_the_level_that_sam_3_never_reads_is_not_trained():
    assert not any("fpn_layers.3" in name for name in neck_parameters(small_full()))


@pytest.mark.parametrize("module", [SsaLite, DecoderAlignment])
@torch.no_grad()
def test_text_attention_equals_pytorchs_own(module):
    aligned, x, said = module(16, temperature="fixed"), tokens(), text()
    aligned.out.weight.normal_()
    expected = torch.nn.functional.scaled_dot_product_attention(
        aligned.query(x), aligned.key(said.features), aligned.value(said.features), said.mask[:, None]
    )
    torch.testing.assert_close(aligned(x, said), x + aligned.gate * aligned.out(expected))


@torch.no_grad()
def test_words_that_are_padding_are_not_read():
    aligned, x, said = SsaLite(16), tokens(), text()
    aligned.out.weight.normal_()
    other = said.features.clone()
    other[0, 3:] = 100
    assert torch.equal(aligned(x, said), aligned(x, Prompts(other, said.mask)))


def test_a_learnable_temperature_starts_at_its_bound_and_is_brought_back_to_it():
    aligned = SsaLite(16, temperature="learnable")
    assert aligned.logit_scale.item() == SHARPEST
    aligned.logit_scale.data += 5
    aligned.constrain()
    assert aligned.logit_scale.item() == SHARPEST
    assert DecoderAlignment(16).logit_scale.item() == 0
    assert SsaLite(16).logit_scale is None


@pytest.mark.parametrize(("gate", "learned"), [("fixed", False), ("learnable", True)])
def test_a_gate_is_learned_or_not(gate, learned):
    names = {name for name, _ in SsaLite(16, gate=gate).named_parameters()}
    assert ("gate" in names) is learned
    assert SsaLite(16, gate=gate, start=0.3).gate.item() == pytest.approx(0.3)


@torch.no_grad()
def test_cma_reads_the_top_text_tokens_alone():
    cross, x, said = CrossModal(16, top_tokens=2), tokens(), text()
    cross.out.weight.normal_()
    logits = (cross.query(x) @ cross.key(said.features).transpose(1, 2)) / 4
    logits = logits.masked_fill(~said.mask[:, None], -torch.inf)
    kept = logits >= logits.topk(2, -1).values[..., -1:]
    expected = logits.masked_fill(~kept, -torch.inf).softmax(-1) @ cross.value(said.features)
    open_gate = torch.full(x.shape[:2], 1e4)
    torch.testing.assert_close(cross.gated(x, said, open_gate), x + cross.gate * cross.out(expected))


@torch.no_grad()
def test_cmas_gate_closes_where_the_mask_is_sure_of_nothing_there():
    cross, x, said = CrossModal(16), tokens(), text()
    cross.out.weight.normal_()
    cross.out.bias.fill_(0.3)
    closed = torch.full(x.shape[:2], -1e4)
    assert torch.equal(cross.gated(x, said, closed), x)
    half = cross.gated(x, said, torch.zeros(x.shape[:2])) - x
    whole = cross.gated(x, said, torch.full(x.shape[:2], 1e4)) - x
    torch.testing.assert_close(half, whole / 2, atol=1e-6, rtol=1e-4)
    assert torch.equal(cross.gated(x, said, torch.zeros(x.shape[:2]), 0.0), x)


def test_feedback_passes_no_gradient_to_what_it_reads():
    feedback, x = Feedback(16), tokens().requires_grad_()
    look = FirstLook(torch.randn(3, 12), torch.rand(3, 12), torch.rand(3, 1))
    assert torch.equal(feedback(x, look), x)
    feedback(x, look).sum().backward()
    assert feedback.gain.grad is not None
    assert ((look.entropy >= 0) & (look.entropy <= 1)).all()
    assert FirstLook(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1)).entropy.item() == pytest.approx(1)


@models
@torch.no_grad()
def test_the_plain_values_of_a_trained_adapter_are_the_model_without_it(name):
    model, images = make(name), images_for(name)
    prompts = model.encode_text(WORDS)
    plain = see_tokens(model, images, prompts)
    adapter = Adapter(model, settings())
    for parameter in adapter.parameters().values():
        parameter.add_(0.05)
    assert not torch.allclose(see_tokens(model, images, prompts), plain, atol=1e-3)
    with adapter.holding(adapter.plain()):
        torch.testing.assert_close(see_tokens(model, images, prompts), plain, rtol=0, atol=1e-6)
    assert not torch.allclose(see_tokens(model, images, prompts), plain, atol=1e-3)


def test_activations_that_are_computed_again_give_the_same_gradients(monkeypatch):
    found, layers = [], []
    for checkpointing in (False, True):
        model, chosen = small_full(), settings({"checkpointing": checkpointing})
        torch.manual_seed(0)
        adapter = Adapter(model, chosen)
        for module in adapter.low_rank.values():
            module.up.data.fill_(0.01)
        layer = model.backbone.layers[0]
        calls, run = [], layer.attention.forward
        monkeypatch.setattr(
            layer.attention, "forward", lambda *args, run=run, calls=calls, **kwargs: (calls.append(1), run(*args, **kwargs))[1]
        )
        seen = see(model, adapter.alignment, images_for("sam3"), Prompts(*(t.detach() for t in _parts(model.encode_text(WORDS)))))
        seen.probability.sum().backward()
        found.append({name: p.grad for name, p in adapter.parameters().items() if p.grad is not None})
        layers.append(len(calls))
    assert layers == [1, 2]
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@torch.no_grad()
def test_maps_on_the_grid_are_each_tokens_own_pixels_whatever_the_size():
    model = make("rs-tiny")
    images = torch.rand(1, 3, 100, 100)
    seen = see(model, None, images, model.encode_text(["road"]))
    ramp = torch.arange(100.0).expand(1, 100, 100)
    columns = seen.on_grid(ramp).view(seen.grid)[0]
    assert columns[:6].tolist() == [16 * k + 7.5 for k in range(6)]
    assert columns[7] == 99
