"""Dense CLIP and its fusion, on a tiny tower with random weights."""

import copy
import json

import open_clip
import pytest
import torch
from rs_model.clip import OWN, SHIPPED_CLIP, build_clip, load_dense_clip
from rs_model.clip_captions import CONTEXT, END, PAD, train_tokenizer
from rs_model.clip_dense import OVERHEAD_TEMPLATES, DenseClip, proxy_weights
from rs_model.refine.clip_fusion import CONTRAST, agreement, class_prior, cosines, fuse_loglinear, resample_tokens
from rs_model.weights import CONFIG, WEIGHTS, write_weights
from run_folder import scores_of
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rs_pipeline.errors import SegmenterError
from rs_pipeline.run import run

CPU = torch.device("cpu")
ATTENTIONS = ("maskclip", "sclip", "clearclip")
VISION = {"layers": 2, "width": 64, "head_width": 16, "patch_size": 16, "image_size": 64}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def write_config(folder, name="tiny-clip", **vision):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": VISION | vision, "text_cfg": TEXT}))
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def loaded(config):
    """A tiny model whose biases and scales are not the neutral ones of a fresh module, so that leaving one out shows."""
    torch.manual_seed(3)
    clip = load_dense_clip(config, None, 64, "maskclip", CPU, allow_random=True)
    for parameter in clip.model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    # Random queries and keys are so small that all attention is flat: sharper, the three forms differ.
    clip.model.visual.transformer.resblocks[-1].attn.in_proj_weight[:128] *= 4
    return clip


@pytest.fixture
def clips(loaded):
    """One object per attention, on the same weights."""
    return {name: DenseClip(loaded.model, loaded.tokenizer, name, CPU) for name in ATTENTIONS}


def pictures(count=2, size=64, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def joint(visual, tokens):
    return F.normalize(visual.ln_post(tokens[:, 1:]) @ visual.proj, dim=-1).reshape(len(tokens), 4, 4, 32)


def test_the_unmodified_last_block_gives_what_the_tower_gives(loaded):
    visual, images = loaded.model.visual, pictures(2, 80)
    tokens = loaded.last_block_input(images)
    last = visual.transformer.resblocks[-1](tokens)
    assert tokens.shape == (2, 17, 64)
    assert torch.equal(visual.ln_post(last[:, 0]) @ visual.proj, visual(loaded.prepare(images)))
    assert torch.equal(visual(loaded.prepare(images)), loaded.model.encode_image(loaded.prepare(images)))


def test_an_image_of_the_towers_size_is_only_normalised(loaded):
    images = pictures()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    assert torch.allclose(loaded.prepare(images), (images - mean) / std, atol=1e-5)


def test_resizing_keeps_sharp_edges_within_the_range_of_an_image(loaded):
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 1
    black, white = (loaded.prepare(torch.full((1, 3, 64, 64), v)) for v in (0.0, 1.0))
    got = loaded.prepare(edge)
    assert (got >= black).all()
    assert (got <= white).all()


@pytest.mark.parametrize("name", ATTENTIONS)
def test_each_attention_matches_torchs_own_with_its_weights_exchanged(clips, name):
    """`nn.MultiheadAttention` does the heads, scales and projections; a query against itself is a key with the query's weights."""
    visual, images = clips[name].model.visual, pictures()
    block, tokens = visual.transformer.resblocks[-1], clips[name].last_block_input(images)
    x = block.ln_1(tokens)

    def attend(query, key, mask=None):
        attention = copy.deepcopy(block.attn)
        weight, bias = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        attention.in_proj_weight = torch.nn.Parameter(torch.cat([weight[query], weight[key], weight[2]]))
        attention.in_proj_bias = torch.nn.Parameter(torch.cat([bias[query], bias[key], bias[2]]))
        return attention(x, x, x, need_weights=False, attn_mask=mask)[0]

    with torch.no_grad():
        if name == "clearclip":
            expected = attend(0, 0)
        else:
            only_itself = ~torch.eye(17, dtype=torch.bool)
            attended = attend(0, 1, only_itself) if name == "maskclip" else attend(0, 0) + attend(1, 1) - block.attn.out_proj.bias
            expected = tokens + attended
            expected = expected + block.mlp(block.ln_2(expected))
        assert torch.allclose(clips[name].features(images), joint(visual, expected), atol=1e-5)


def test_the_attentions_differ_and_features_have_unit_length(clips):
    images = pictures()
    found = [clips[name].features(images) for name in ATTENTIONS]
    for index, features in enumerate(found):
        assert features.shape == (2, 4, 4, 32)
        assert torch.allclose(features.norm(dim=-1), torch.ones(2, 4, 4), atol=1e-5)
        assert not any(torch.allclose(features, other, atol=1e-3) for other in found[:index])


@pytest.mark.parametrize("name", [*ATTENTIONS, "proxy"])
def test_a_uniform_image_is_uniform_but_for_the_position_embeddings(loaded, name):
    blind = copy.deepcopy(loaded.model)
    blind.visual.positional_embedding[1:] = 0

    def spread(model):
        clip = DenseClip(model, loaded.tokenizer, "sclip" if name == "proxy" else name, CPU)
        images = torch.full((1, 3, 64, 64), 0.3)
        features = clip.proxy_features(images, torch.ones(1, 9, 5), (3, 3)) if name == "proxy" else clip.features(images)
        return (features - features[:, :1, :1]).abs().max()

    assert spread(blind) < 1e-5
    assert spread(loaded.model) > 1e-3


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize(("row", "col"), [(0, 3), (2, 1), (3, 0)])
def test_a_bright_patch_lights_its_own_place(clips, name, row, col):
    images = torch.full((1, 3, 64, 64), 0.2)
    spotted = images.clone()
    spotted[..., 16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = 1
    change = (clips[name].features(spotted) - clips[name].features(images)).norm(dim=-1)[0]
    assert divmod(int(change.argmax()), 4) == (row, col)


def test_an_image_does_not_depend_on_its_batch(clips):
    images, tokens = pictures(3), unit(3, 36, 8)
    for name in ATTENTIONS:
        assert torch.allclose(clips[name].features(images)[1:2], clips[name].features(images[1:2]), atol=1e-5)
    together = clips["sclip"].proxy_features(images, tokens, (6, 6))
    assert torch.allclose(together[1:2], clips["sclip"].proxy_features(images[1:2], tokens[1:2], (6, 6)), atol=1e-5)


def test_proxy_features_gather_values_by_the_likeness_of_the_other_models_tokens(clips):
    clip, images = clips["maskclip"], pictures()
    tokens = unit(2, 16, 8, seed=1)
    visual = clip.model.visual
    block = visual.transformer.resblocks[-1]
    value = F.linear(block.ln_1(clip.last_block_input(images)), block.attn.in_proj_weight[128:], block.attn.in_proj_bias[128:])
    rows = []
    for image in range(2):
        likeness = tokens[image] @ tokens[image].T
        score = 3.0 * (likeness - 1.2 * likeness.mean())
        for patch in range(16):
            kept = [other for other in range(16) if score[patch, other] >= 0 or other == patch]
            weights = score[patch, kept].softmax(0)
            rows.append(sum(w * value[image, 1 + other] for w, other in zip(weights, kept, strict=True)))
    gathered = block.attn.out_proj(torch.stack(rows)).view(2, 16, 64)
    expected = joint(visual, F.pad(gathered, (0, 0, 1, 0)))
    assert torch.allclose(clip.proxy_features(images, tokens, (4, 4)), expected, atol=1e-5)


def test_proxy_weights_keep_to_what_is_alike_and_a_lone_token_keeps_itself():
    two_sorts = torch.eye(2).repeat_interleave(3, 0)[None]
    weights = proxy_weights(cosines(torch.cat([two_sorts, torch.tensor([[[-1.0, -1.0]]])], 1)))[0]
    assert torch.allclose(weights[:3, :3], torch.full((3, 3), 1 / 3))
    assert weights[:3, 3:].abs().max() == 0
    assert weights[6].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert torch.equal(proxy_weights(torch.ones(1, 4, 4))[0], torch.eye(4))


def test_tokens_keep_their_place_when_they_are_resampled():
    maps = torch.arange(24.0).view(1, 1, 4, 6)
    tokens = maps.flatten(2).transpose(1, 2)
    assert torch.equal(resample_tokens(tokens, (4, 6), (4, 6)), tokens)
    finer = resample_tokens(tokens, (4, 6), (8, 12)).view(8, 12)
    assert torch.allclose(finer, F.interpolate(maps, scale_factor=2, mode="bilinear")[0, 0], atol=1e-5)


def test_each_text_is_encoded_once_through_all_templates(loaded, monkeypatch):
    clip, calls = DenseClip(loaded.model, loaded.tokenizer, "sclip", CPU), []
    monkeypatch.setattr(clip.model, "encode_text", lambda ids, f=clip.model.encode_text, **k: calls.append(len(ids)) or f(ids, **k))
    first = clip.encode_texts(["road", "water"])
    assert torch.equal(clip.encode_texts(["water", "road", "water"]), first[[1, 0, 1]])
    assert calls == [len(OVERHEAD_TEMPLATES)] * 2
    clip.encode_texts(["road", "parking lot"])
    assert len(calls) == 3
    assert first.shape == (2, 32)
    assert torch.allclose(first.norm(dim=-1), torch.ones(2))


def test_a_text_is_the_renormalised_mean_of_its_templates(loaded):
    ids = loaded.tokenizer([t.format("bare ground") for t in OVERHEAD_TEMPLATES])
    expected = F.normalize(F.normalize(loaded.model.encode_text(ids), dim=-1).mean(0), dim=-1)
    assert torch.allclose(loaded.encode_texts(["bare ground"])[0], expected, atol=1e-6)
    assert all(t.count("{}") == 1 for t in OVERHEAD_TEMPLATES)


# Fusion


def test_the_prior_is_a_softmax_over_texts_synonyms_folded_by_their_likeliest_and_contrast_texts_dropped():
    features, texts = unit(2, 3, 5, 16), unit(4, 16, seed=1)
    got = class_prior(features, texts, (0, 0, 1, CONTRAST), 2, 10.0)
    softmax = (10 * features @ texts.T).softmax(-1)
    assert got.shape == (2, 2, 3, 5)
    assert torch.allclose(got[:, 0], torch.maximum(softmax[..., 0], softmax[..., 1]), atol=1e-6)
    assert torch.allclose(got[:, 1], softmax[..., 2], atol=1e-6)
    assert (got.sum(1) < 1).all()


def test_without_a_contrast_text_a_single_class_has_a_prior_of_one_everywhere():
    features, texts = unit(1, 2, 2, 16), unit(2, 16, seed=1)
    assert torch.equal(class_prior(features, texts[:1], (0,), 1, 100.0), torch.ones(1, 1, 2, 2))
    assert class_prior(features, texts, (0, CONTRAST), 1, 5.0).max() < 1


def test_similarities_are_enlarged_before_the_softmax():
    texts = torch.eye(2)
    features = torch.eye(2).view(1, 1, 2, 2)
    got = class_prior(features, texts, (0, 1), 2, 20.0, size=(1, 8))
    cosine = F.interpolate(torch.eye(2).view(1, 2, 1, 2), size=(1, 8), mode="bilinear")
    assert torch.allclose(got, (20 * cosine).softmax(1))
    blurred = F.interpolate(class_prior(features, texts, (0, 1), 2, 20.0), size=(1, 8), mode="bilinear")
    assert (got - blurred).abs().max() > 0.1
    assert torch.allclose(got.sum(1), torch.ones(1, 1, 8))


def probabilities(*shape, seed=0):
    found = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    found.view(-1)[0], found.view(-1)[-1] = 0, 1
    return found


def test_strength_zero_is_the_identity_bit_for_bit():
    probability, prior = probabilities(2, 3, 8, 8), probabilities(2, 3, 4, 4, seed=1)
    assert fuse_loglinear(probability, prior, 0) is probability
    assert fuse_loglinear(probability, prior, 0.0) is probability
    assert torch.equal(fuse_loglinear(probability, prior, torch.zeros(2, 1, 8, 8)), probability)


def test_strength_one_is_the_prior():
    probability, prior = probabilities(2, 3, 8, 8), probabilities(2, 3, 4, 4, seed=1)
    enlarged = F.interpolate(prior, size=(8, 8), mode="bilinear")
    assert torch.allclose(fuse_loglinear(probability, prior, 1.0), enlarged, atol=2e-6)
    assert torch.allclose(fuse_loglinear(probability, enlarged, torch.ones(1, 1, 1, 1)), enlarged, atol=2e-6)


def test_in_between_is_the_weighted_geometric_mean():
    probability, prior = torch.full((1, 1, 2, 2), 0.9), torch.full((1, 1, 2, 2), 0.2)
    assert torch.allclose(fuse_loglinear(probability, prior, 0.3), torch.tensor(0.9**0.7 * 0.2**0.3))


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9, 1.0])
def test_zeros_and_ones_stay_in_range_without_nan(strength):
    extremes = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 2, 2)
    got = fuse_loglinear(extremes, extremes.transpose(2, 3), strength)
    assert got.isfinite().all()
    assert got.min() >= 0
    assert got.max() <= 1
    assert got[0, 0, 0, 0] <= 2e-6
    assert got[0, 0, 1, 1] == 1


def test_more_strength_moves_every_pixel_towards_the_prior_and_never_back():
    probability, prior = probabilities(1, 3, 8, 8), probabilities(1, 3, 8, 8, seed=1)
    distances = torch.stack([(fuse_loglinear(probability, prior, b / 10) - prior).abs() for b in range(11)])
    assert (distances.diff(dim=0) <= 1e-6).all()


def test_a_gate_sets_the_strength_of_each_pixel():
    probability, prior = probabilities(1, 3, 2, 2), probabilities(1, 3, 2, 2, seed=1)
    gate = torch.tensor([[0.0, 0.25], [0.5, 1.0]]).view(1, 1, 2, 2)
    got = fuse_loglinear(probability, prior, gate)
    for row, col in ((0, 0), (0, 1), (1, 0), (1, 1)):
        alone = fuse_loglinear(probability, prior, gate[0, 0, row, col].item())
        assert torch.allclose(got[..., row, col], alone[..., row, col])


def test_a_single_class_prior_of_one_raises_every_score():
    probability = probabilities(1, 1, 4, 4)
    got = fuse_loglinear(probability, torch.ones(1, 1, 4, 4), 0.5)
    assert torch.allclose(got[probability > 1e-6], probability[probability > 1e-6].sqrt())


# The gate


def test_the_gate_is_open_where_both_models_see_the_same_structure():
    features = unit(2, 6, 6, 32)
    rotation, _ = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))
    gate = agreement(7 * features.flatten(1, 2) @ rotation, (6, 6), features)
    assert gate.shape == (2, 1, 6, 6)
    assert gate.min() > 0.999
    assert gate.max() <= 1


def test_the_gate_is_closed_where_they_see_the_opposite_or_nothing():
    halves = torch.tensor([1.0, -1.0]).repeat_interleave(18).view(1, 36, 1)
    stripes = torch.tensor([1.0, -1.0]).repeat(18).view(1, 6, 6, 1)
    assert agreement(halves, (6, 6), stripes).max() < 0.1
    assert agreement(1 + 1e-5 * unit(1, 36, 4), (6, 6), unit(1, 6, 6, 32, seed=1)).max() < 0.01
    assert agreement(unit(1, 1, 4), (1, 1), unit(1, 1, 1, 8)).item() == 0


def test_a_fitted_projection_finds_agreement_in_pure_noise_and_the_gate_does_not():
    """METHODS.md, trap 5: with as many CLIP channels as patches, least squares maps any noise onto any other."""
    tokens, features = unit(1, 256, 64), unit(1, 16, 16, 512, seed=1)
    clip = features.flatten(1, 2)[0]
    fitted = clip @ torch.linalg.lstsq(clip, tokens[0], driver="gelsd").solution
    assert F.cosine_similarity(fitted, tokens[0], dim=-1).mean() > 0.99
    assert agreement(tokens, (16, 16), features).mean() < 0.1


def test_few_channels_do_not_make_noise_agree_by_the_diagonal():
    assert agreement(unit(1, 64, 512), (8, 8), unit(1, 8, 8, 512, seed=1)).mean() < 0.1


def test_the_gate_is_open_in_the_half_that_agrees_and_closed_in_the_half_that_is_noise():
    features = unit(1, 16, 16, 64)
    tokens = features.clone()
    tokens[:, :8] = unit(1, 8, 16, 64, seed=1)
    gate = agreement(tokens.flatten(1, 2), (16, 16), features)
    assert gate[:, :, 8:].min() > 0.3
    assert gate[:, :, :8].mean() < 0.1


# Loading


def test_position_embeddings_of_a_checkpoint_fit_another_image_size(loaded, config, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(loaded.model.state_dict(), path)
    same = load_dense_clip(config, str(path), 64, "sclip", CPU)
    assert torch.equal(same.features(pictures()), DenseClip(loaded.model, loaded.tokenizer, "sclip", CPU).features(pictures()))
    larger = load_dense_clip(config, str(path), 96, "sclip", CPU)
    assert larger.grid == (6, 6)
    assert larger.features(pictures()).shape == (2, 6, 6, 32)
    assert torch.equal(larger.encode_texts(["road"]), same.encode_texts(["road"]))
    assert not any(p.requires_grad for p in larger.model.parameters())
    assert not larger.model.training


def test_a_torch_checkpoint_is_read_too(loaded, config, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": loaded.model.state_dict()}, path)
    got = load_dense_clip(config, str(path), 64, "clearclip", CPU).features(pictures())
    assert torch.equal(got, DenseClip(loaded.model, loaded.tokenizer, "clearclip", CPU).features(pictures()))


def refused(*words, call):
    with pytest.raises(SegmenterError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line
    return line


def test_random_weights_are_only_for_those_who_say_so(config):
    refused("--set refine.clip.pretrained=PATH", call=lambda: load_dense_clip(config, None, 64, "sclip", CPU))


def test_an_unknown_model_is_named_with_those_near_it():
    refused("'vit-b16'", "ViT-B-16", call=lambda: load_dense_clip("vit-b16", "openai", 224, "sclip", CPU))
    refused("'unicorn'", "ViT-B-16", call=lambda: load_dense_clip("unicorn", "openai", 224, "sclip", CPU))


def test_an_unknown_tag_is_named_with_the_known_ones():
    refused("'opanai'", "laion2b_s34b_b88k", "openai", call=lambda: load_dense_clip("ViT-B-16", "opanai", 224, "sclip", CPU))


def test_a_tag_that_cannot_be_downloaded_asks_for_a_local_checkpoint(monkeypatch):
    def offline(cfg):
        raise FileNotFoundError("no route to host\nand a long tale")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    line = refused("openai", "no route to host", call=lambda: load_dense_clip("ViT-B-16", "openai", 224, "sclip", CPU))
    assert "--set refine.clip.pretrained=PATH" in line
    assert "tale" not in line


@pytest.mark.parametrize("model", ["RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32"])
def test_a_tower_that_is_no_plain_vit_is_refused_before_anything_is_built(model):
    refused(model, "plain ViT", call=lambda: load_dense_clip(model, None, 224, "sclip", CPU, allow_random=True))


@pytest.mark.parametrize("vision", [{"qk_norm": True}, {"layers": 1}])
def test_a_config_of_another_tower_is_refused(tmp_path, vision):
    path = write_config(tmp_path, "other-clip", **vision)
    refused("plain ViT", "other-clip", call=lambda: load_dense_clip(path, None, 64, "sclip", CPU, allow_random=True))


def test_an_image_size_that_patches_do_not_fill_is_refused(config):
    refused("70 px", "image_px=64", call=lambda: load_dense_clip(config, None, 70, "sclip", CPU, allow_random=True))


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"embed_dim": 3}', b'{"model_cfg": {}}'])
def test_a_config_file_that_is_none_is_one_clear_line(tmp_path, content):
    path = tmp_path / "broken-clip.json"
    if content is not None:
        path.write_bytes(content)
    refused(str(path), call=lambda: load_dense_clip(str(path), None, 64, "sclip", CPU, allow_random=True))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("kind", ["junk", "empty", "truncated", "another", "nothing in it"])
def test_a_damaged_checkpoint_is_one_clear_line(loaded, config, tmp_path, name, kind):
    path = tmp_path / name
    state = {"nothing in it": {}, "another": {"visual.proj": torch.zeros(3, 3)}}.get(kind, loaded.model.state_dict())
    if name.endswith(".pt"):
        torch.save(state, path)
    else:
        save_file(state, path)
    if kind in {"junk", "empty", "truncated"}:
        whole = path.read_bytes()
        path.write_bytes({"junk": b"junk" * 50, "empty": b"", "truncated": whole[: len(whole) // 2]}[kind])
    refused(str(path), "tiny-clip", call=lambda: load_dense_clip(config, str(path), 64, "sclip", CPU))


def test_a_checkpoint_that_would_run_code_is_refused(config, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    path = tmp_path / "weights.pt"
    torch.save({"state_dict": Harmful()}, path)
    refused(str(path), call=lambda: load_dense_clip(config, str(path), 64, "sclip", CPU))
    assert not (tmp_path / "made").exists()


# The small CLIP


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A weights folder of rs-clip with random weights, as training writes it."""
    torch.manual_seed(5)
    tokenizer = train_tokenizer()
    text = {"context_length": CONTEXT, "vocab_size": tokenizer.get_vocab_size(), "width": 32, "heads": 2, "layers": 1}
    sizes = {"embed_dim": 32, "vision_cfg": VISION | {"pool_type": "avg"}, "text_cfg": text | {"pool_type": "eos", "eos_id": END}}
    config = {"model_type": OWN, "model_cfg": sizes, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    folder = tmp_path_factory.mktemp("own") / "weights"
    write_weights(folder, config | {"tokenizer": tokenizer.to_str()}, {n: t.half() for n, t in build_clip(sizes, 64).state_dict().items()})
    return folder


def load_own(folder, image_px=64, attention="sclip"):
    return load_dense_clip(OWN, str(folder / WEIGHTS), image_px, attention, CPU)


def test_a_weights_folder_of_the_small_clip_is_found_by_its_file_and_gives_what_its_tower_gives(own):
    clip = load_own(own)
    saved = load_file(own / WEIGHTS)
    assert all(torch.equal(tensor, saved[name].float()) for name, tensor in clip.model.state_dict().items())
    images = pictures()
    last = clip.model.visual.transformer.resblocks[-1](clip.last_block_input(images))
    whole = (clip.model.visual.ln_post(last[:, 1:]) @ clip.model.visual.proj).mean(1)
    assert torch.allclose(clip.model.encode_image((images - 0.5) / 0.25), whole, atol=1e-5)
    assert load_own(own, image_px=96).features(images).shape == (2, 6, 6, 32)


def test_a_text_of_the_small_clip_is_read_at_its_end_token_however_short(own):
    clip = load_own(own)
    ids = clip.tokenizer(["road", "a high resolution satellite photo of bare ground", "zebra " * 40])
    assert ids.shape == (3, CONTEXT)
    ends = (ids == END).int()
    assert ends.sum(1).tolist() == [1, 1, 1], "a text that is too long is cut, and still ends"
    with torch.no_grad():
        found = clip.model.encode_text(ids[:1])
        changed = ids[:1].clone()
        changed[0, int(ends[0].argmax()) + 1 :] = 7
        assert torch.allclose(clip.model.encode_text(changed), found, atol=1e-6), "what follows the end is not looked at"
        assert not torch.allclose(clip.model.encode_text(ids[1:2]), found, atol=1e-3)
    assert (ids[0, int(ends[0].argmax()) + 1 :] == PAD).all()


@pytest.mark.parametrize("damage", ["no config", "another model", "junk", "another size", "no tokenizer", "no sizes"])
def test_a_damaged_folder_of_the_small_clip_is_one_clear_line(own, tmp_path, damage):
    config, tensors = json.loads((own / CONFIG).read_text()), load_file(own / WEIGHTS)
    changes = {"another model": {"model_type": "rs-tiny"}, "no tokenizer": {"tokenizer": "{}"}, "no sizes": {"model_cfg": {}}}
    folder = tmp_path / "weights"
    write_weights(folder, config | changes.get(damage, {}), tensors | ({"visual.proj": torch.zeros(3)} if damage == "another size" else {}))
    if damage == "no config":
        # Without one beside it, it is a file of weights like any other, of the usual model.
        (folder / CONFIG).unlink()
    if damage == "junk":
        (folder / WEIGHTS).write_bytes(b"junk" * 50)
    refused(str(folder), call=lambda: load_own(folder))


def test_an_image_size_that_the_small_clips_patches_do_not_fill_is_refused(own):
    refused("70 px", "image_px=64", call=lambda: load_own(own, image_px=70))


def test_weights_named_without_a_model_are_those_of_the_usual_one(monkeypatch):
    asked = []
    monkeypatch.setattr(open_clip, "download_pretrained", asked.append)
    monkeypatch.setattr(open_clip, "create_model", lambda name, **_: asked.append(name) or (_ for _ in ()).throw(RuntimeError("enough")))
    refused("ViT-B-16", "enough", call=lambda: load_dense_clip(OWN, "laion2b_s34b_b88k", 448, "sclip", CPU))
    assert asked[1] == "ViT-B-16"


def test_the_shipped_small_clip_is_small_and_tells_the_classes_of_its_captions_apart():
    assert sum(path.stat().st_size for path in SHIPPED_CLIP.iterdir()) <= 6e6
    clip = load_dense_clip(OWN, None, 448, "sclip", CPU)
    names = ("building", "land", "road", "vegetation", "water")
    synonyms = ("houses", "bare soil", "highway", "forest", "lake")
    assert (clip.encode_texts(synonyms) @ clip.encode_texts(names).T).argmax(1).tolist() == [0, 1, 2, 3, 4]


PROXY_GATED = ("refine.clip.fusion=proxy", "refine.clip.gate=true", "refine.clip.strength=0.7")


@pytest.mark.parametrize("sets", [(), PROXY_GATED], ids=["plain", "proxy, gated"])
def test_the_preset_clip_runs_without_a_network(make_scene, settings_for, tmp_path, monkeypatch, sets):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    scene = make_scene()

    def scores(name, *more):
        out = tmp_path / name
        given = ["tile_px=96", f"refine.preset={name}", *more]
        run(settings_for(scene, sets=given, model="rs-tiny", classes=("road", "water"), out=str(out)))
        return scores_of(out).astype(int)

    plain, constrained = scores("none"), scores("clip", *sets)
    assert abs(plain - constrained).max() > 2
    assert (constrained != 255).all()


GATED = ("refine.clip.fusion=proxy", "refine.clip.gate=true", "refine.clip.contrast=[sky]")


@pytest.mark.parametrize(("sets", "least"), [((), 20), (GATED, 2)], ids=["plain", "proxy, gated: random weights agree little"])
def test_a_run_is_constrained_by_a_checkpoint_of_the_users(loaded, config, tmp_path, make_scene, settings_for, sets, least):
    checkpoint = tmp_path / "clip.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in loaded.model.state_dict().items()}, checkpoint)
    scene, shared = make_scene(), [f"refine.clip.model={config}", f"refine.clip.pretrained={checkpoint}", "refine.clip.image_px=64"]

    def scores(name, preset, *more):
        out, given = tmp_path / name, ["tile_px=96", f"refine.preset={preset}", *more]
        run(settings_for(scene, sets=given, model="rs-tiny", classes=("road", "water"), out=str(out)))
        return scores_of(out).astype(int)

    plain, constrained = scores("plain", "none"), scores("clip", "clip", "refine.clip.strength=0.7", *shared, *sets)
    assert abs(plain - constrained).max() > least
    assert (constrained != 255).all()
