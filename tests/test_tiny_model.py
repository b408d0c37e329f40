"""rs-tiny: its stages are SAM 3's, its scores follow METHODS.md section 0, its folder is checked."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rs_model.architecture import Architecture
from rs_model.chain import Chain
from rs_model.labels import CLASSES
from rs_model.loading import load_segmenter
from rs_model.phrases import build_tokenizer
from rs_model.provider import tiny_provider
from rs_model.scores import Instances, best_queries, class_probability, word_probability
from rs_model.segmenter import PromptedSegmenter, find_device
from rs_model.stages import NOWHERE, Prompts, decode, embed_pixels, fuse, in_boxes, mask_logits, query_boxes, score, semantic_logits
from rs_model.tiny import TinySam3, load_tiny
from rs_model.weights import CONFIG, SHIPPED, WEIGHTS, weights_digest
from torch.nn import functional as F
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import load_settings
from rs_pipeline.errors import SegmenterError
from rs_pipeline.segmenter import check_vocabulary, find_provider
from rs_pipeline.unfamiliar import describe_unfamiliar

PLAIN = load_settings(sets=["device=cpu", "refine.preset=none"]).options
SMALL = Architecture(width=16, heads=2, intermediate=32, text_layers=1, encoder_layers=1, decoder_layers=1, queries=4)
shipped = pytest.mark.skipif(not (SHIPPED / WEIGHTS).is_file(), reason="the shipped weights are not installed")


def class_set(*prompts):
    return ClassSet(tuple(Class(i + 1, words[0], words, (0, 0, 0), 0.5) for i, words in enumerate(prompts)))


def tiles(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, 3, height, width), np.float32), np.ones((count, height, width), bool)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(1)
    return TinySam3(SMALL, tokenizer).eval()


@pytest.fixture(scope="module")
def small(model):
    return PromptedSegmenter(model, Chain(PLAIN.refine), PLAIN, torch.device("cpu"))


@pytest.fixture(scope="module")
def real():
    return load_segmenter(load_tiny, SHIPPED, tiny_provider(None).info(), PLAIN, 2)


def encode(model, tokenizer, *words):
    ids, mask = (torch.from_numpy(a) for a in tokenizer.encode(words))
    return ids, mask, model.encode_ids(ids, mask)


@pytest.mark.parametrize("words", [("road",), ("bare ground",), ("road", "bare ground", "water")])
@torch.no_grad()
def test_the_stages_equal_sam3_forward_and_with_one_prompt_bit_for_bit(model, tokenizer, words):
    ids, mask, prompts = encode(model, tokenizer, *words)
    count = len(words)
    pyramid = model.encode_images(torch.from_numpy(tiles(2, 64, 96)[0]))
    sam = model.head
    fused = fuse(sam, pyramid, prompts)
    decoded = decode(sam, fused)
    pixels = embed_pixels(sam, pyramid, fused)
    levels = [level.repeat_interleave(count, 0) for level in (*pyramid.levels, pyramid.position)]
    # Sam3Model.forward ignores a fourth, coarsest level.
    embeds = Sam3VisionEncoderOutput(fpn_hidden_states=(*levels[:3], None), fpn_position_encoding=(*levels[:2], levels[3], None))
    whole = sam(vision_embeds=embeds, input_ids=ids.repeat(2, 1), attention_mask=mask.repeat(2, 1))
    for ours, theirs in (
        (semantic_logits(sam, pixels), whole.semantic_seg),
        (mask_logits(sam, pixels, decoded.queries), whole.pred_masks),
        (decoded.presence, whole.presence_logits),
        (score(sam, decoded, fused), whole.pred_logits),
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
        assert count > 1 or torch.equal(ours, theirs)


@torch.no_grad()
def test_prompts_go_through_the_text_encoder(model, tokenizer):
    *_, prompts = encode(model, tokenizer, "road", "street", "water body", "body water")
    road, street, body, reversed_body = prompts.features
    assert not torch.allclose(road, street)
    assert not torch.allclose(body[:4], reversed_body[:4])


@torch.no_grad()
def test_padding_does_not_change_a_prompt(model, tokenizer):
    ids, mask, prompts = encode(model, tokenizer, "road")
    pyramid = model.encode_images(torch.from_numpy(tiles(1, 64, 64)[0]))
    shorter = Prompts(prompts.features[:, :3], prompts.mask[:, :3])
    assert mask.sum() == 3
    assert torch.allclose(fuse(model.head, pyramid, prompts).tokens, fuse(model.head, pyramid, shorter).tokens, atol=1e-5)
    assert ids[0, 3:].eq(0).all()


def test_presence_is_applied_once():
    semantic, presence = torch.full((1, 1, 4, 4), 2.0), torch.tensor([[-1.0]])
    expected = torch.sigmoid(torch.tensor(2.0)) * torch.sigmoid(torch.tensor(-1.0))
    assert torch.allclose(word_probability(semantic, presence, (8, 8)), expected.expand(1, 8, 8))


def test_logits_are_enlarged_before_the_sigmoid():
    semantic = torch.tensor([[[[-20.0, 20.0], [-20.0, 20.0]]]])
    got = word_probability(semantic, torch.tensor([[30.0]]), (2, 8))
    enlarged = F.interpolate(semantic, size=(2, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(got, torch.sigmoid(enlarged)[0])
    assert not torch.allclose(got, F.interpolate(torch.sigmoid(semantic), size=(2, 8), mode="bilinear")[0], atol=0.05)


def test_instances_raise_the_probability_where_their_mask_is_and_only_above_the_threshold():
    semantic, presence = torch.full((1, 1, 2, 2), -20.0), torch.tensor([[0.0]])
    queries = torch.logit(torch.tensor([[0.8, 0.99]]))
    index, best = best_queries(queries, presence, 0.3, 10)
    assert index.tolist() == [[1, 0]]
    both = word_probability(semantic, presence, (2, 2), Instances(torch.full((1, 2, 2, 2), 20.0), best))
    assert torch.allclose(both, torch.tensor(0.99 * 0.5).expand(1, 2, 2), atol=1e-4)
    index, best = best_queries(queries, presence, 0.5, 10)
    assert index.shape == (1, 0)
    assert word_probability(semantic, presence, (2, 2), Instances(torch.zeros(1, 0, 2, 2), best)).max() < 1e-6


def test_only_the_best_queries_get_a_mask():
    index, best = best_queries(torch.logit(torch.tensor([[0.2, 0.9, 0.6], [0.1, 0.7, 0.1]])), torch.full((2, 1), 20.0), 0.5, 2)
    assert index[:, 0].tolist() == [1, 1]
    assert best[0].tolist() == pytest.approx([0.9, 0.6])
    assert best[1].tolist() == pytest.approx([0.7, 0.0])


@pytest.mark.parametrize("semantic", [2.0, -5.0])
def test_presence_power_two_is_the_published_codes_square_on_instances_alone(semantic):
    presence, r, mask = torch.tensor([[-1.0]]), torch.tensor([[0.9]]), 3.0
    p, s, m = (torch.sigmoid(torch.tensor(x)) for x in (-1.0, semantic, mask))
    maps = torch.full((1, 1, 4, 4), semantic), presence, (4, 4), Instances(torch.full((1, 1, 4, 4), mask), r)
    for power, expected in ((1.0, p * max(s, m * 0.9)), (2.0, p * max(s, m * 0.9 * p)), (0.0, max(s, m * 0.9))):
        assert torch.allclose(word_probability(*maps, power=power), expected.expand(1, 4, 4))


def test_a_class_is_as_likely_as_its_likeliest_word():
    words = torch.tensor([0.1, 0.7, 0.4]).view(1, 3, 1, 1)
    assert class_probability(words, [2, 1]).flatten().tolist() == pytest.approx([0.7, 0.4])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 33), (31, 100), (1, 1)])
def test_any_size_comes_back_as_it_came_with_scores_in_range(small, height, width):
    got = small.segment(*tiles(2, height, width), class_set(("road", "street"), ("water",)))
    assert got.shape == (2, 2, height, width)
    assert got.dtype == np.float32
    assert got.min() >= 0
    assert got.max() <= 1


def test_an_image_does_not_depend_on_its_batch(small):
    images, valid = tiles(3, 64, 64)
    classes = class_set(("road",), ("water",))
    together = small.segment(images, valid, classes)
    alone = np.concatenate([small.segment(images[i : i + 1], valid[i : i + 1], classes) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_same_call_gives_the_same_bytes(small):
    call = (*tiles(2, 64, 64), class_set(("road",), ("water",)))
    assert small.segment(*call).tobytes() == small.segment(*call).tobytes()


def test_a_class_does_not_depend_on_the_others_asked_for(small):
    images, valid = tiles(1, 64, 64)
    both = small.segment(images, valid, class_set(("road",), ("water", "lake")))
    alone = small.segment(images, valid, class_set(("water", "lake")))
    np.testing.assert_allclose(both[:, 1], alone[:, 0], atol=1e-5)


def test_what_is_not_valid_does_not_leak(small):
    images, valid = tiles(1, 64, 64)
    valid[:, :20] = False
    spoiled = images.copy()
    spoiled[:, :, :20] = np.nan
    np.testing.assert_array_equal(
        small.segment(spoiled, valid, class_set(("road",))),
        small.segment(np.where(valid[:, None], images, 0), valid, class_set(("road",))),
    )


def test_text_is_encoded_once_per_set_of_classes(small, monkeypatch):
    calls = []
    monkeypatch.setattr(small.model, "encode_text", lambda *a, f=small.model.encode_text: calls.append(1) or f(*a))
    for _ in range(3):
        small.segment(*tiles(1, 32, 32), class_set(("motorway",), ("canal",)))
    assert len(calls) == 1


def test_an_unknown_device_is_refused():
    with pytest.raises(SegmenterError, match="toaster"):
        find_device("toaster")


@shipped
def test_info_does_not_import_torch():
    code = (
        "import sys; from rs_model.provider import tiny_provider; i = tiny_provider(None).info(); "
        "assert not {'torch', 'transformers', 'timm'} & set(sys.modules); print(i.name, i.tile_px)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["rs-tiny", "512"], done.stderr


@shipped
def test_the_shipped_folder_is_small_and_described():
    assert sum(f.stat().st_size for f in SHIPPED.iterdir()) < 12e6
    info = tiny_provider(None).info()
    assert info.weights_sha256 == weights_digest(SHIPPED)
    assert info.vocabulary is None
    assert info.trained_on == CLASSES
    assert {"road", "water", "building", "tree"} <= set(info.trained_words)
    assert info.gsd_range_m[0] <= info.gsd_m <= info.gsd_range_m[1]
    assert find_provider("rs-tiny").info() == info
    assert find_provider(str(SHIPPED)).info() == info


@shipped
def test_an_unknown_word_is_taken_and_named_with_the_fuller_model():
    info, classes = tiny_provider(None).info(), class_set(("road",), ("unicorn",), ("stone farmhouses", "houses"))
    check_vocabulary(info, classes)
    (note,) = describe_unfamiliar(info, classes)
    assert note.startswith("'unicorn', 'stone farmhouses': rs-tiny was trained on building, land, road, vegetation, water")
    assert "SAM 3 (--model sam3) takes any text" in note


@shipped
def test_the_shipped_weights_tell_water_from_road_on_a_generated_scene(real):
    from rs_pipeline.demo import DEMO_CLASSES, render_scene

    hits = either = 0
    for seed in (1, 7):
        scene = render_scene(seed, 512, 512, 0.5)
        low, high = (np.percentile(scene.image, p, axis=(1, 2)).reshape(3, 1, 1) for p in (2, 98))
        image = np.clip((scene.image - low) / (high - low), 0, 1).astype(np.float32)
        found = real.segment(image[None], np.ones((1, 512, 512), bool), class_set(("road",), ("water",)))[0]
        for probability, name in zip(found, ("road", "water"), strict=True):
            true = scene.labels == DEMO_CLASSES.index(name) + 1
            hits += (true & (probability > 0.5)).sum()
            either += (true | (probability > 0.5)).sum()
    assert hits / either > 0.5


@pytest.fixture
def folder(tmp_path):
    if not (SHIPPED / WEIGHTS).is_file():
        pytest.skip("the shipped weights are not installed")
    return Path(shutil.copytree(SHIPPED, tmp_path / "weights"))


def test_the_digest_changes_with_either_file(folder):
    before = weights_digest(folder)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"tile_px": 256}))
    assert weights_digest(folder) != before


@pytest.mark.parametrize(
    ("name", "content"),
    [(CONFIG, b"{"), (CONFIG, b"[]"), (CONFIG, b'{"model_type": "rs-tiny"}'), (CONFIG, None), (WEIGHTS, None), (WEIGHTS, b"junk")],
)
def test_a_damaged_folder_is_one_clear_line(folder, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    provider = tiny_provider(folder)
    with pytest.raises(SegmenterError) as caught:
        (provider.info(), provider.load(PLAIN, 1))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused(folder):
    config = json.loads((folder / CONFIG).read_text())
    config["architecture"]["queries"] = 5
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(SegmenterError, match="fits its config"):
        tiny_provider(folder).load(PLAIN, 1)


def test_a_box_holds_the_cells_whose_centre_lies_in_it():
    box = torch.tensor([[[0.5, 0.25, 0.5, 0.5]]])  # centre x, centre y, width, height
    held = in_boxes(box, (4, 8), grow=1.0)[0, 0]
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[:2, 2:6] = True
    assert torch.equal(held, expected)
    assert in_boxes(box, (4, 8), grow=2.0)[0, 0].sum() == 3 * 8


def test_masks_of_rs_tiny_and_not_of_others_end_at_their_own_boxes(small, monkeypatch):
    """Decision 31."""
    torch.manual_seed(0)
    layers, pixels = torch.randn(1, 2, 4, SMALL.width), torch.randn(2, SMALL.width, 16, 16)
    index = torch.tensor([[0, 3], [1, 2]])
    cut, _ = small._masks(layers, pixels, index)
    monkeypatch.setattr(small.model, "cuts_masks", False)
    whole, own = small._masks(layers, pixels, index)
    boxes = query_boxes(small.model.head, layers)[-1]
    assert all(torch.equal(own[row], boxes[row, index[row]]) for row in range(2))
    held = torch.stack([in_boxes(boxes[row, index[row]], (16, 16)) for row in range(2)])
    assert 0 < held.float().mean() < 1
    assert torch.equal(cut[held], whole[held])
    assert (cut[~held] == NOWHERE).all()
