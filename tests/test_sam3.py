"""SAM 3 through the named stages: the same numbers as transformers, each thing computed once, memory respected, folders checked."""

import json

import numpy as np
import pytest
import rs_model.seams
import torch
from rs_model import hub, segmenter
from rs_model.batching import Batches
from rs_model.chain import Chain
from rs_model.hub import fetch_sam3, sam3_digest
from rs_model.provider import sam3_provider
from rs_model.sam3 import FullSam3, load_sam3
from rs_model.scores import best_queries
from rs_model.seams import seams
from rs_model.segmenter import PromptedSegmenter
from rs_model.stages import decode, embed_pixels, fuse, mask_logits, query_boxes, score, semantic_logits
from safetensors.torch import load_file, save_file
from small_sam3 import SIDE, letter_tokenizer, small_full, small_sam, write_folder
from torch.nn import functional as F
from transformers import Sam3Config, Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import load_settings
from rs_pipeline.errors import SegmenterError, UsageError
from rs_pipeline.segmenter import check_vocabulary, find_provider

WORDS = ("road", "river", "roof")


def options_of(*sets):
    return load_settings(sets=["device=cpu", "refine.preset=none", *sets]).options


def segmenter_of(model, *sets):
    options = options_of(*sets)
    return PromptedSegmenter(model, Chain(options.refine), options, torch.device("cpu"))


def class_set(*prompts):
    return ClassSet(tuple(Class(i + 1, words[0], words, (0, 0, 0), 0.5) for i, words in enumerate(prompts)))


def tiles(count, height=SIDE, width=SIDE, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, 3, height, width), np.float32), np.ones((count, height, width), bool)


EACH = class_set(*((word,) for word in WORDS))


@pytest.fixture(scope="module")
def model():
    return small_full()


def stages_and_forward(model, images, words, **geometry):
    """Pairs of every output of the stages and of `Sam3Model.forward` on one image, its features repeated for each text."""
    sam, count = model.head, len(words)
    pyramid, prompts = model.encode_images(images), model.encode_text(words)
    fused = fuse(sam, pyramid, prompts, **({"geometry_token": True} if geometry else {}))
    decoded = decode(sam, fused)
    pixels = embed_pixels(sam, pyramid, fused)
    text = model.tokenizer(list(words), padding="max_length", max_length=32, return_tensors="pt")
    for i in range(len(images)):
        rows = slice(i * count, (i + 1) * count)
        boxes = {key: value.expand(count, *value.shape[1:]) for key, value in geometry.items()}
        encoded = sam.get_vision_features((images[i : i + 1] - 0.5) / 0.5)
        levels, positions = ([x.expand(count, -1, -1, -1) for x in xs] for xs in (encoded.fpn_hidden_states, encoded.fpn_position_encoding))
        embeds = Sam3VisionEncoderOutput(fpn_hidden_states=tuple(levels), fpn_position_encoding=tuple(positions))
        whole = sam(vision_embeds=embeds, input_ids=text.input_ids, attention_mask=text.attention_mask, **boxes)
        yield semantic_logits(sam, pixels)[rows], whole.semantic_seg
        yield mask_logits(sam, pixels, decoded.queries)[rows], whole.pred_masks
        yield decoded.presence[rows], whole.presence_logits
        yield score(sam, decoded, fused)[rows], whole.pred_logits


@pytest.mark.parametrize("word", WORDS)
@torch.no_grad()
def test_the_stages_equal_sam3_forward_bit_for_bit(model, word):
    for ours, theirs in stages_and_forward(model, torch.from_numpy(tiles(1)[0]), (word,)):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_several_images_with_several_prompts_equal_one_by_one(model):
    for ours, theirs in stages_and_forward(model, torch.from_numpy(tiles(3)[0]), WORDS):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_geometry_token_is_that_of_a_box_labelled_minus_ten(model):
    geometry = {"input_boxes": torch.zeros(1, 1, 4), "input_boxes_labels": torch.full((1, 1), -10)}
    images = torch.from_numpy(tiles(2)[0])
    for ours, theirs in stages_and_forward(model, images, WORDS, **geometry):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    plain, with_token = (segmenter_of(model, f"scoring.geometry_token={value}").segment(*tiles(1), EACH) for value in ("false", "true"))
    assert np.abs(plain - with_token).max() > 1e-3


@pytest.mark.slow
@torch.no_grad()
def test_the_stages_equal_sam3_forward_bit_for_bit_at_full_width():
    torch.manual_seed(0)
    config = Sam3Config()
    config.text_config.vocab_size = 74
    config.text_config.bos_token_id, config.text_config.eos_token_id, config.text_config.pad_token_id = 72, 73, 73
    full = FullSam3(Sam3Model(config).eval(), letter_tokenizer())
    for ours, theirs in stages_and_forward(full, torch.from_numpy(tiles(1, 1008, 1008)[0]), ("road",)):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_the_encoders_first_attention_runs_once_per_image_and_leaves_no_hook(model):
    attention, seen = model.head.detr_encoder.layers[0].self_attn, []
    counter = attention.q_proj.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    fuse(model.head, model.encode_images(torch.from_numpy(tiles(2)[0])), model.encode_text(WORDS))
    counter.remove()
    assert seen == [2]
    assert not attention._forward_pre_hooks
    assert not attention._forward_hooks


@pytest.mark.parametrize(("height", "width"), [(SIDE, SIDE), (40, SIDE)])
@torch.no_grad()
def test_a_tile_scores_what_the_formula_says_of_transformers_own_outputs(model, height, width):
    """METHODS.md section 0, written out from `Sam3Model.forward`: p · max(S, max of m r), presence once, upper left corner."""
    images, valid = tiles(1, height, width)
    found = segmenter_of(model, "scoring.query_threshold=0", "scoring.absent_below=0").segment(images, valid, EACH)
    square = F.pad(torch.from_numpy(images), (0, 0, 0, SIDE - height), mode="replicate")
    text = model.tokenizer(list(WORDS), padding="max_length", max_length=32, return_tensors="pt")
    for k in range(len(WORDS)):
        row = {"input_ids": text.input_ids[k : k + 1], "attention_mask": text.attention_mask[k : k + 1]}
        out = model.head(pixel_values=(square - 0.5) / 0.5, **row)
        p, r = out.presence_logits.sigmoid()[0, 0], out.pred_logits.sigmoid()[0, :, None, None]
        semantic, masks = (F.interpolate(x, (SIDE, SIDE), mode="bilinear")[0].sigmoid() for x in (out.semantic_seg, out.pred_masks))
        expected = p * torch.maximum(semantic[0], (masks * r).amax(0))
        np.testing.assert_allclose(found[0, k], expected[:height, :width].numpy(), atol=1e-5)


def test_an_image_is_encoded_once_and_a_text_once_whatever_the_number_of_prompts(model, monkeypatch):
    images, texts = [], []
    monkeypatch.setattr(model, "encode_images", lambda x, r=None, f=model.encode_images: images.append(len(x)) or f(x, r))
    monkeypatch.setattr(model, "encode_text", lambda words, f=model.encode_text: texts.append(words) or f(words))
    loaded = segmenter_of(model, "prompt_batch=1")
    for _ in range(2):
        loaded.segment(*tiles(3), EACH)
    assert images == [3, 3]
    assert texts == [WORDS]


def test_on_a_cpu_sam3_takes_tiles_one_by_one(model, monkeypatch):
    seen, together = [], segmenter_of(model).segment(*tiles(3), EACH)
    monkeypatch.setattr(model, "tiles_on_cpu", FullSam3.tiles_on_cpu)
    monkeypatch.setattr(model, "encode_images", lambda x, r=None, f=model.encode_images: seen.append(len(x)) or f(x, r))
    np.testing.assert_allclose(segmenter_of(model).segment(*tiles(3), EACH), together, atol=1e-5)
    assert seen == [1, 1, 1]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_prompts_in_batches_give_what_all_at_once_gives(model, batch):
    all_at_once = segmenter_of(model).segment(*tiles(2), EACH)
    np.testing.assert_allclose(segmenter_of(model, f"prompt_batch={batch}").segment(*tiles(2), EACH), all_at_once, atol=1e-5)


class SmallCard:
    """A mask decoder stage that has room for so many rows and no more."""

    def __init__(self, rows, error):
        self.rows, self.error, self.seen = rows, error, []

    def __call__(self, sam, pyramid, fused):
        self.seen.append(len(fused.tokens))
        if len(fused.tokens) > self.rows:
            raise self.error
        return embed_pixels(sam, pyramid, fused)


NO_ROOM = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]


@pytest.mark.parametrize("error", NO_ROOM, ids=["cuda", "cpu"])
def test_out_of_memory_halves_the_prompts_and_goes_on(model, monkeypatch, error):
    whole = segmenter_of(model).segment(*tiles(2), EACH)
    card = SmallCard(2, error)
    monkeypatch.setattr(segmenter, "embed_pixels", card)
    loaded = segmenter_of(model)
    np.testing.assert_allclose(loaded.segment(*tiles(2), EACH), whole, atol=1e-5)
    assert card.seen == [6, 2, 2, 2]
    card.seen.clear()
    loaded.segment(*tiles(2), EACH)
    assert card.seen == [2, 2, 2], "the size that fits is remembered"


def test_where_one_prompt_does_not_fit_the_tiles_are_halved_too(model, monkeypatch):
    whole = segmenter_of(model).segment(*tiles(2), EACH)
    monkeypatch.setattr(segmenter, "embed_pixels", SmallCard(1, NO_ROOM[0]))
    np.testing.assert_allclose(segmenter_of(model).segment(*tiles(2), EACH), whole, atol=1e-5)


def test_what_does_not_fit_at_all_is_said(model, monkeypatch):
    monkeypatch.setattr(segmenter, "embed_pixels", SmallCard(0, NO_ROOM[0]))
    with pytest.raises(torch.OutOfMemoryError):
        segmenter_of(model).segment(*tiles(2), EACH)


def test_another_error_is_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        Batches(None).run(lambda part: (_ for _ in ()).throw(RuntimeError("shapes do not match")), 4)


@torch.no_grad()
def test_absent_prompts_get_no_mask_and_the_others_keep_theirs(model, monkeypatch):
    images, valid = tiles(2)
    everything = segmenter_of(model, "scoring.absent_below=0").segment(images, valid, EACH)
    sam, pyramid = model.head, model.encode_images(torch.from_numpy(images))
    presence = torch.sigmoid(decode(sam, fuse(sam, pyramid, model.encode_text(WORDS))).presence[:, 0])
    least = float(presence.sort().values[2:4].mean())
    rows = []
    monkeypatch.setattr(segmenter, "embed_pixels", lambda s, p, fused: rows.append(len(fused.tokens)) or embed_pixels(s, p, fused))
    found = segmenter_of(model, f"scoring.absent_below={least}").segment(images, valid, EACH)
    there = (presence >= least).view(2, 3).numpy()
    assert rows == [3]
    assert (found[~there] == 0).all()
    np.testing.assert_allclose(found[there], everything[there], atol=1e-6)
    assert everything[~there].max() <= least, "nothing that is left out could have scored higher than the limit"
    assert (segmenter_of(model, "scoring.absent_below=1").segment(images, valid, EACH) == 0).all()


@pytest.mark.parametrize("least", [0.0, 0.02])
def test_the_best_queries_alone_give_the_masks_that_all_give(model, least):
    all_of_them = segmenter_of(model, f"scoring.query_threshold={least}", "scoring.top_queries=12").segment(*tiles(2), EACH)
    without = segmenter_of(model, "scoring.instances=false").segment(*tiles(2), EACH)
    assert np.abs(all_of_them - without).max() > 1e-3, "instances matter here"
    fewer = segmenter_of(model, f"scoring.query_threshold={least}", "scoring.top_queries=3").segment(*tiles(2), EACH)
    assert (fewer <= all_of_them + 1e-6).all()
    assert (fewer >= without - 1e-6).all()


@torch.no_grad()
def test_objects_are_kept_apart_by_a_gap_of_no_probability_and_nothing_else_changes(model, monkeypatch):
    monkeypatch.setattr(rs_model.seams, "SHARED", 1.0)  # masks of random weights all share their ground
    images, valid = tiles(2)
    sets = ("scoring.query_threshold=0", "scoring.absent_below=0")
    whole, parted = (segmenter_of(model, *sets, f"scoring.apart={names}").segment(images, valid, EACH) for names in ("[]", "[road, river]"))
    gap = parted != whole
    assert (parted[gap] == 0).all()
    assert 0 < gap[:, :2].mean() < 0.5
    assert not gap[:, 2].any()
    sam, pyramid = model.head, model.encode_images(torch.from_numpy(images))
    fused = fuse(sam, pyramid, model.encode_text(WORDS))
    decoded = decode(sam, fused)
    index, best = best_queries(score(sam, decoded, fused), decoded.presence, 0, 12)
    row = torch.arange(len(index))[:, None]
    masks = mask_logits(sam, embed_pixels(sam, pyramid, fused), decoded.queries[row, index])
    expected = seams(masks, query_boxes(sam, decoded.layers)[-1][row, index], best, (SIDE, SIDE)).view(2, 3, SIDE, SIDE).numpy()
    assert (gap == expected)[:, :2].mean() > 0.999, "the order of additions may move a border by a pixel"


@pytest.mark.parametrize("sets", [("prompt_batch=1",), ("prompt_batch=2",), ("scoring.absent_below=1",)])
def test_objects_are_kept_apart_in_whatever_batches_prompts_come_and_where_they_are_absent(model, monkeypatch, sets):
    monkeypatch.setattr(rs_model.seams, "SHARED", 1.0)
    usual = ("scoring.query_threshold=0", "scoring.absent_below=0", *sets)
    whole = segmenter_of(model, *usual).segment(*tiles(2), EACH)
    parted = segmenter_of(model, *usual, "scoring.apart=[river]").segment(*tiles(2), EACH)
    assert ((parted != whole).any((0, 2, 3)) == [False, bool(whole.any()), False]).all()


@torch.no_grad()
def test_where_some_prompts_are_absent_the_others_are_kept_apart_as_before(model, monkeypatch):
    monkeypatch.setattr(rs_model.seams, "SHARED", 1.0)
    images, valid = tiles(2)
    sam, pyramid = model.head, model.encode_images(torch.from_numpy(images))
    presence = decode(sam, fuse(sam, pyramid, model.encode_text(WORDS))).presence.sigmoid().view(2, 3)
    least = float(presence.flatten().sort().values[2:4].mean())
    sets = ("scoring.query_threshold=0", "scoring.apart=[road,river,roof]")
    everything = segmenter_of(model, *sets, "scoring.absent_below=0").segment(images, valid, EACH)
    found = segmenter_of(model, *sets, f"scoring.absent_below={least}").segment(images, valid, EACH)
    there = (presence >= least).numpy()
    np.testing.assert_array_equal((found == 0)[there], (everything == 0)[there])
    assert (found[~there] == 0).all()


def test_a_class_of_several_words_is_parted_by_the_queries_of_its_first(model, monkeypatch):
    monkeypatch.setattr(rs_model.seams, "SHARED", 1.0)
    sets = ("scoring.query_threshold=0", "scoring.absent_below=0", "scoring.apart=[road,roof]")
    alone = segmenter_of(model, *sets).segment(*tiles(1), EACH)[0]
    together = segmenter_of(model, *sets).segment(*tiles(1), class_set(("road", "river"), ("roof",)))[0]
    assert (alone == 0).any((1, 2)).tolist() == [True, False, True]
    np.testing.assert_array_equal(together[0] == 0, alone[0] == 0)
    np.testing.assert_array_equal(together[1] == 0, alone[2] == 0)


@pytest.mark.parametrize(("setting", "came"), [("scoring.instances=false", "not used"), ("scoring.tta.flips=true", "several views")])
def test_objects_cannot_be_kept_apart_without_queries_of_the_tile_itself(model, setting, came):
    with pytest.raises(SegmenterError, match=came):
        segmenter_of(model, "scoring.apart=[road]", setting)


@torch.no_grad()
def test_masks_of_some_queries_are_those_of_all(model):
    sam, pyramid = model.head, model.encode_images(torch.from_numpy(tiles(1)[0]))
    fused = fuse(sam, pyramid, model.encode_text(WORDS))
    queries, pixels = decode(sam, fused).queries, embed_pixels(sam, pyramid, fused)
    torch.testing.assert_close(mask_logits(sam, pixels, queries[:, 4:7]), mask_logits(sam, pixels, queries)[:, 4:7], atol=1e-5, rtol=0)


def test_synonyms_are_folded_by_their_maximum(model):
    apart = segmenter_of(model).segment(*tiles(2), EACH)
    folded = segmenter_of(model).segment(*tiles(2), class_set(("road", "roof"), ("river",)))
    np.testing.assert_allclose(folded[:, 0], np.maximum(apart[:, 0], apart[:, 2]), atol=1e-6)


def test_bfloat16_is_near_float32_and_comes_back_as_float32(model):
    exact, rough = (segmenter_of(model, f"dtype={dtype}").segment(*tiles(2), EACH) for dtype in ("float32", "bfloat16"))
    assert rough.dtype == np.float32
    assert 0 < np.abs(exact - rough).max() < 0.05


@pytest.mark.parametrize(("height", "width"), [(SIDE, SIDE), (40, 56), (100, 31), (1, 1)])
def test_a_tile_of_any_size_is_fitted_into_the_models_square(model, height, width):
    got = segmenter_of(model).segment(*tiles(2, height, width), EACH)
    assert got.shape == (2, 3, height, width)
    assert 0 <= got.min() <= got.max() <= 1
    fitted, size = model.fit(torch.from_numpy(tiles(2, height, width)[0]))
    assert fitted.shape == (2, 3, SIDE, SIDE)
    assert size == (max(height, width),) * 2


def test_a_prompt_that_is_too_long_is_refused(model):
    with pytest.raises(UsageError, match="at most 32 tokens"):
        model.encode_text(["road", "a" * 40])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("sam3"))


@pytest.fixture
def folder(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_folder_is_found_described_and_runs(folder, model):
    provider = find_provider(str(folder))
    info = provider.info()
    assert (info.name, info.tile_px, info.vocabulary, info.gsd_m) == ("sam3", SIDE, None, None)
    check_vocabulary(info, class_set(("any text at all",)))
    got = provider.load(options_of(), 1).segment(*tiles(2), EACH)
    one_by_one = np.concatenate([segmenter_of(model).segment(*(part[i : i + 1] for part in tiles(2)), EACH) for i in range(2)])
    np.testing.assert_array_equal(got, one_by_one)


def test_the_image_model_is_taken_out_of_a_folder_with_the_video_tracker(folder, model):
    """The hub's own folder: a sam3_video configuration, the image model's weights under `detector_model.`."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "sam3_video", "detector_config": config}))
    weights = {f"detector_model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights | {"tracker_model.unused": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    assert find_provider(str(folder)).info().tile_px == SIDE
    found = find_provider(str(folder)).load(options_of(), 1)
    np.testing.assert_array_equal(found.segment(*tiles(1), EACH), segmenter_of(model).segment(*tiles(1), EACH))


def test_the_digest_follows_the_content_of_every_file(folder):
    before = sam3_digest(folder)
    assert sam3_digest(folder) == before
    (folder / "tokenizer_config.json").write_text("{}")
    assert sam3_digest(folder) != before


def _drop_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _drop_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def _spoil_weights(folder):
    (folder / "model.safetensors").write_bytes(b"junk")


def _other_config(folder):
    (folder / "config.json").write_text('{"model_type": "sam3", "vision_config": null}')


def _lose_a_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("text_projection.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop_weights, r"\.safetensors.*pytorch_model\.bin"),
        (_drop_tokenizer, "tokenizer"),
        (_spoil_weights, "transformers' format"),
        (_other_config, r"config\.json of SAM 3"),
        (_lose_a_tensor, r"text_projection\.weight"),
    ],
)
def test_a_wrong_folder_is_one_line_that_names_it(folder, spoil, message):
    spoil(folder)
    provider = sam3_provider(folder)
    with pytest.raises(SegmenterError, match=message) as caught:
        (provider.info(), provider.load(options_of(), 1))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_said_with_what_else_may_be_named(tmp_path):
    with pytest.raises(SegmenterError, match="a folder"):
        find_provider(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("error", "message"),
    [("GatedRepoError", "hf auth login"), ("LocalEntryNotFoundError", "--model FOLDER"), ("HfHubHTTPError", "--model FOLDER")],
)
def test_without_login_or_network_it_says_what_to_do(monkeypatch, error, message):
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*args, local_files_only=False, **kwargs):
        kind = errors.LocalEntryNotFoundError if local_files_only else getattr(errors, error)
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(SegmenterError, match=message) as caught:
        fetch_sam3()
    assert "\n" not in str(caught.value)
    assert hub.REPOSITORY in str(caught.value)


def test_a_download_that_was_cut_off_is_taken_up_again(folder, monkeypatch, tmp_path_factory):
    import huggingface_hub

    part = tmp_path_factory.mktemp("part")
    (part / "config.json").write_bytes((folder / "config.json").read_bytes())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kwargs: str(part if "local_files_only" in kwargs else folder))
    assert fetch_sam3() == folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_setting_works_in_either_precision(model, dtype):
    sets = ("scoring.geometry_token=true", f"dtype={dtype}", "refine.steps=[lowpass, reweight, presence_gate, query_gate, prune]")
    got = segmenter_of(model, *sets).segment(*tiles(2), EACH)
    assert np.isfinite(got).all()
    assert got.std() > 0


def test_the_hubs_cache_is_used_without_a_network(folder, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kwargs: asked.append(kwargs) or str(folder))
    assert sam3_provider(None).info().tile_px == SIDE
    assert [kwargs["local_files_only"] for kwargs in asked] == [True]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_any_precision_are_computed_in_float32(folder, kind):
    weights = load_file(folder / "model.safetensors")
    save_file({n: t.to(kind) if t.is_floating_point() else t for n, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    loaded = load_sam3(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert small_sam().num_parameters() == loaded.head.num_parameters()


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same_scores(folder):
    compiled = sam3_provider(folder).load(options_of("compile=true"), 2)
    np.testing.assert_allclose(
        compiled.segment(*tiles(2), EACH), sam3_provider(folder).load(options_of(), 2).segment(*tiles(2), EACH), atol=1e-4
    )


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_scores_and_bfloat16_comes_near_them(folder):
    def on(*sets):
        return sam3_provider(folder).load(load_settings(sets=["refine.preset=none", *sets]).options, 2).segment(*tiles(2), EACH)

    cpu = on("device=cpu")
    np.testing.assert_allclose(on("device=cuda", "dtype=float32"), cpu, atol=1e-3)
    assert 0 < np.abs(on("device=cuda") - cpu).max() < 0.05
