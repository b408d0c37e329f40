"""Adaptation: it learns, stops, resumes as if it had not stopped, and refuses what would do harm."""

import itertools
import json

import numpy as np
import pytest
import torch
from adapting import ALL_LOSSES, ALL_MODULES, NoiseTiles, Notes, settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rs_model.adapt import adaptation as training
from rs_model.adapt.adaptation import Adaptation
from rs_model.adapt.adapter import put_on
from rs_model.adapt.command import encode_classes
from rs_model.adapt.file import write_adapter
from rs_model.adapt.forward import see
from rs_model.adapt.holdout import Agreement, HeldOut, split_tiles
from rs_model.adapt.views import Turn, draw_views
from rs_model.provider import tiny_provider
from rs_model.tiny import load_tiny
from rs_model.weights import SHIPPED
from safetensors.torch import load_file

from rs_pipeline.adaptation import AdaptRequest
from rs_pipeline.adapters import adapter_file, check_adapter, read_facts
from rs_pipeline.errors import OutputError, SegmenterError, TrainingError, UsageError
from rs_pipeline.vocabulary import load_vocabulary

TWO = load_vocabulary("default").class_set(["building", "water"])


def request(out, *rows, classes=TWO, resume=True):
    return AdaptRequest(classes, settings(*rows), out, "cpu", None, resume)


def adapt(out, *rows, tiles=None, **changes):
    notes = Notes()
    return tiny_provider(None).adapt(request(out, *rows, **changes), tiles or NoiseTiles(), notes), notes


@pytest.fixture
def lenient(monkeypatch):
    """Whatever it became, it got better: what is tested is the rest."""
    steps = itertools.count()
    monkeypatch.setattr(Agreement, "score", lambda self, before: 0.1 + next(steps) / 1e7)


class KilledError(Exception):
    pass


def test_an_adapter_says_what_it_was_made_for(tmp_path, lenient):
    out = tmp_path / "new" / "a.safetensors"
    made, notes = adapt(out, ALL_MODULES, ALL_LOSSES)
    facts = read_facts(out)
    info = tiny_provider(None).info()
    assert (facts.model, facts.base_sha256) == ("rs-tiny", info.weights_sha256)
    assert facts.classes == {c.name: c.prompts for c in TWO}
    assert facts.data_sha256 == NoiseTiles().digest
    assert facts.settings["steps"] == 4
    assert facts.history["steps"] == 4 == notes.steps
    assert made["bytes"] == out.stat().st_size < 1_000_000
    history = json.loads((out.parent / "a.curves.json").read_text())
    assert [row["step"] for row in history] == [0, 2, 4]
    assert set(history[1]) == {"step", "consistency", *(f"loss.{name}" for name in ALL_LOSSES["losses"])}
    with Image.open(out.parent / "a.curves.png") as picture:
        assert picture.size == (920, 4 * 190)
    assert sorted(p.name for p in out.parent.iterdir()) == ["a.curves.json", "a.curves.png", "a.safetensors"]
    said = [text for text in notes.said if "consistency" in text]
    assert len(said) == 2
    assert all(loss in said[0] for loss in ALL_LOSSES["losses"])


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_killed_adaptation_ends_as_a_whole_one(tmp_path, lenient, monkeypatch, step):
    adapt(tmp_path / "whole.safetensors", ALL_MODULES, ALL_LOSSES)
    advance = Adaptation.advance

    def killed(self):
        if self.state.step == step:
            raise KilledError
        return advance(self)

    monkeypatch.setattr(training.Adaptation, "advance", killed)
    with pytest.raises(KilledError):
        adapt(tmp_path / "killed.safetensors", ALL_MODULES, ALL_LOSSES)
    assert not (tmp_path / "killed.safetensors").exists()
    assert (tmp_path / "killed.checkpoint.pt").exists() is (step >= 2)
    monkeypatch.setattr(training.Adaptation, "advance", advance)
    adapt(tmp_path / "killed.safetensors", ALL_MODULES, ALL_LOSSES)
    whole, killed = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_an_adapter_that_made_consistency_worse_is_not_written(tmp_path, monkeypatch):
    scores = iter([0.8, 0.7, 0.6])
    monkeypatch.setattr(Agreement, "score", lambda self, before: next(scores))
    with pytest.raises(TrainingError, match=r"0\.7000 at best, 0\.8000 without") as caught:
        adapt(tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
    assert (tmp_path / "a.curves.png").exists()
    assert "learning_rate" in str(caught.value)


def test_what_was_refused_is_tried_again_with_other_settings(tmp_path, monkeypatch):
    scores = iter([0.8, 0.7, 0.6, 0.8, 0.9, 0.9])
    monkeypatch.setattr(Agreement, "score", lambda self, before: next(scores))
    with pytest.raises(TrainingError, match="does not get worse"):
        adapt(tmp_path / "a.safetensors")
    made, _ = adapt(tmp_path / "a.safetensors", {"learning_rate": 0.001})
    assert made["consistency"] == 0.9


def test_without_a_number_of_steps_each_training_tile_counts_once(tmp_path, lenient):
    made, _ = adapt(tmp_path / "a.safetensors", {"steps": None, "check_every": 100})
    assert made["steps"] == 3  # six tiles, one held out, two to a step


def test_the_most_consistent_adapter_is_written_and_training_ends_when_none_gets_better(tmp_path, monkeypatch):
    scores = iter([0.5, 0.6, 0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(Agreement, "score", lambda self, before: next(scores))
    kept = {}
    check = Adaptation._check

    def keep(self, reporter):
        check(self, reporter)
        kept[self.state.step] = {name: value.clone() for name, value in self.state.teacher.items()}

    monkeypatch.setattr(Adaptation, "_check", keep)
    made, _ = adapt(tmp_path / "a.safetensors", {"steps": 100, "check_every": 1, "patience": 2})
    assert (made["best_step"], made["steps"], made["consistency"]) == (2, 4, 0.9)
    written = load_file(tmp_path / "a.safetensors")
    assert torch.equal(written["align.encoder.out.weight"], kept[2]["align.encoder.out.weight"])
    assert not torch.equal(written["align.encoder.out.weight"], kept[4]["align.encoder.out.weight"])


def test_a_loss_that_is_not_finite_stops_it_and_the_last_checkpoint_stays(tmp_path, lenient, monkeypatch):
    from rs_model.adapt.losses import PatchContrastLoss

    forward, calls = PatchContrastLoss.forward, []

    def explode(self, tokens, *rest):
        calls.append(1)
        return forward(self, tokens, *rest) + (torch.nan if len(calls) == 4 else 0)

    monkeypatch.setattr(PatchContrastLoss, "forward", explode)
    out = tmp_path / "a.safetensors"
    with pytest.raises(TrainingError, match="contrast is nan"):
        adapt(out, {"steps": 8})
    assert not out.exists()
    assert torch.load(tmp_path / "a.checkpoint.pt", weights_only=True)["step"] == 2
    made, _ = adapt(out, {"steps": 8})  # the same command goes on
    assert made["steps"] == 8


def test_no_checkpoint_is_spoken_of_before_the_first(tmp_path, monkeypatch):
    from rs_model.adapt.losses import PatchContrastLoss

    monkeypatch.setattr(PatchContrastLoss, "forward", lambda self, tokens, *rest: tokens.sum() * torch.nan)
    with pytest.raises(TrainingError, match="contrast is nan at step 0") as caught:
        adapt(tmp_path / "a.safetensors")
    assert "kept" not in str(caught.value)


def test_a_checkpoint_of_another_adaptation_is_refused(tmp_path, lenient, monkeypatch):
    out = tmp_path / "a.safetensors"
    monkeypatch.setattr("rs_model.adapt.command.write_adapter", lambda *_: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        adapt(out)
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="another: settings"):
        adapt(out, {"learning_rate": 0.02})
    with pytest.raises(TrainingError, match="another: data_sha256"):
        adapt(out, tiles=NoiseTiles(seed=5))
    with pytest.raises(TrainingError, match="another: classes"):
        adapt(out, classes=load_vocabulary("default").class_set(["building", "road"]))
    with pytest.raises(TrainingError, match="--resume"):
        adapt(out, resume=False)
    (tmp_path / "a.checkpoint.pt").write_bytes(b"junk")
    with pytest.raises(TrainingError, match="whole checkpoint"):
        adapt(out)


def test_the_same_command_again_has_nothing_to_do_and_another_one_overwrites_nothing(tmp_path, lenient, monkeypatch):
    out = tmp_path / "a.safetensors"
    made, _ = adapt(out)
    before = out.read_bytes()
    monkeypatch.setattr("rs_model.adapt.command.Adaptation", None)
    assert adapt(out)[0] == made
    with pytest.raises(OutputError, match="another: settings"):
        adapt(out, {"learning_rate": 0.02})
    (tmp_path / "b.safetensors").write_bytes(b"something else")
    with pytest.raises(OutputError, match="no adapter"):
        adapt(tmp_path / "b.safetensors")
    assert out.read_bytes() == before


def test_a_gradient_that_is_not_finite_spoils_nothing(tmp_path, lenient, monkeypatch):
    backward, calls = torch.autograd.backward, []

    def explode(loss):
        backward(loss * (torch.inf if len(calls) == 3 else 1))
        calls.append(1)

    monkeypatch.setattr(torch.autograd, "backward", explode)
    with pytest.raises(TrainingError, match=r"finite gradients; got a norm of (inf|nan) at step 3, of consistency"):
        adapt(tmp_path / "a.safetensors", {"steps": 8})
    state = torch.load(tmp_path / "a.checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(value).all() for value in state["own"].values())


def test_one_class_is_refused(tmp_path):
    with pytest.raises(UsageError, match="two classes"):
        adapt(tmp_path / "a.safetensors", classes=load_vocabulary("default").class_set(["water"]))


def test_one_tile_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="at least two tiles that do not overlap"):
        adapt(tmp_path / "a.safetensors", tiles=NoiseTiles(count=1))


def test_tiles_without_any_of_the_classes_are_refused(tmp_path):
    class Blank(NoiseTiles):
        def read(self, index):
            image, valid = super().read(index)
            return image * 0, valid & False

    with pytest.raises(TrainingError, match="finds one of building, water"):
        adapt(tmp_path / "a.safetensors", tiles=Blank())


def test_an_adapter_for_another_base_or_other_classes_is_refused(tmp_path, lenient):
    out = tmp_path / "a.safetensors"
    adapt(out)
    facts, base = read_facts(out), tiny_provider(None).info().weights_sha256
    check_adapter(facts, base, TWO)
    check_adapter(facts, base, load_vocabulary("default").class_set(["water"]))
    with pytest.raises(SegmenterError, match="made for rs-tiny"):
        check_adapter(facts, "0" * 64, TWO)
    with pytest.raises(SegmenterError, match="road, which it was not made for"):
        check_adapter(facts, base, load_vocabulary("default").class_set(["road", "water"]))


@pytest.mark.parametrize("content", [None, b"", b"junk", b"\x10\0\0\0\0\0\0\0{}              "])
def test_what_is_no_adapter_is_one_clear_line(tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SegmenterError, match="an adapter file") as caught:
        read_facts(path)
    assert "\n" not in str(caught.value)
    if content is None:
        with pytest.raises(SegmenterError, match="an adapter file"):
            adapter_file(path)


def test_consistency_of_the_plain_model_is_what_adaptation_starts_from():
    from rs_pipeline.config import load_settings

    tiles = NoiseTiles()
    found = tiny_provider(None).consistency(load_settings(sets=["device=cpu"]).options, TWO, tiles, None)
    assert 0 < found <= 1
    assert found == tiny_provider(None).consistency(load_settings(sets=["device=cpu"]).options, TWO, tiles, None)


def options_with(path=None, *sets):
    from rs_pipeline.config import load_settings

    flags = {} if path is None else {"adapter": str(path)}
    return load_settings(flags=flags, sets=["device=cpu", "refine.preset=none", "scoring.calibrated=false", *sets]).options


def test_a_run_maps_with_an_adapter_what_the_adapted_model_saw(tmp_path, lenient):
    out = tmp_path / "a.safetensors"
    adapt(out, ALL_MODULES, ALL_LOSSES)
    images = np.stack([NoiseTiles(side=128).read(i)[0] for i in range(2)])
    valid = np.ones((2, 128, 128), bool)
    sets = ("scoring.instances=false", "scoring.absent_below=0")
    plain, worn = (tiny_provider(None).load(options_with(path, *sets), None).segment(images, valid, TWO) for path in (None, out))
    model = load_tiny(SHIPPED).eval()
    alignment = put_on(model, read_facts(out).shape, load_file(out))
    with torch.no_grad():
        seen = see(model, alignment, torch.from_numpy(images), encode_classes(model, TWO)).probability
    np.testing.assert_allclose(worn, seen.view(2, 2, 128, 128), atol=1e-5)
    assert np.abs(worn - plain).max() > 1e-3


def test_an_adapter_that_spoils_the_maps_is_less_consistent(tmp_path, lenient, monkeypatch):
    out = tmp_path / "a.safetensors"
    adapt(out)
    monkeypatch.undo()
    spoiled = {name: value + 0.5 * torch.randn_like(value) if name.startswith("neck") else value for name, value in load_file(out).items()}
    facts = read_facts(out)
    made_for = {"model": facts.model, "base_sha256": facts.base_sha256, "classes": facts.classes, "settings": facts.settings}
    write_adapter(tmp_path / "b.safetensors", {**made_for, "data_sha256": "0", "history": {}}, spoiled)
    plain, worn = (
        tiny_provider(None).consistency(options_with(path), TWO, NoiseTiles(), None) for path in (None, tmp_path / "b.safetensors")
    )
    assert worn < 0.9 * plain


def test_an_adapter_outlives_settings_that_say_nothing_of_its_shape(tmp_path, lenient):
    out, older, odd = (tmp_path / f"{name}.safetensors" for name in "abc")
    adapt(out)
    facts = read_facts(out)
    made_for = {"model": facts.model, "base_sha256": facts.base_sha256, "classes": facts.classes, "data_sha256": "0", "history": {}}
    write_adapter(older, {**made_for, "settings": {key: facts.settings[key] for key in ("train", "align")}}, load_file(out))
    images, valid = NoiseTiles().read(0)[0][None], np.ones((1, 96, 96), bool)
    first, second = (tiny_provider(None).load(options_with(path), None).segment(images, valid, TWO) for path in (out, older))
    np.testing.assert_array_equal(first, second)
    write_adapter(odd, {**made_for, "settings": {"train": facts.settings["train"]}}, load_file(out))
    with pytest.raises(SegmenterError, match="an adapter file"):
        read_facts(odd)


def agreed(both, either, plain):
    return Agreement(*(np.array(counts) for counts in (both, either, plain)))


def test_a_class_that_is_gone_grew_or_shrank_counts_less_and_one_that_was_not_there_nothing():
    before = agreed([50, 60, 0], [100, 100, 0], [60, 80, 0])
    assert before.score(before) == pytest.approx(0.55)
    assert agreed([50, 0, 0], [100, 0, 0], [60, 0, 0]).score(before) == pytest.approx(0.25)
    assert agreed([50, 60, 9], [100, 100, 9], [120, 75, 9]).score(before) == pytest.approx((0.25 / 0.9 + 0.6) / 2)
    assert agreed([50, 60, 0], [100, 100, 0], [30, 85, 0]).score(before) == pytest.approx((0.25 / 0.9 + 0.6) / 2)


@given(st.integers(1, 5), st.integers(0, 99))
def test_saying_yes_everywhere_is_next_to_worthless(classes, seed):
    rng = np.random.default_rng(seed)
    plain = rng.integers(1, 1000, classes)
    before = agreed(plain // 2, plain, plain)
    everywhere = np.full(classes, 100_000)
    assert agreed(everywhere, everywhere, everywhere).score(before) <= 0.012


@pytest.mark.parametrize(("count", "share", "held"), [(2, 0.2, 1), (10, 0.2, 2), (100, 0.25, 25)])
def test_tiles_that_lie_apart_train_or_are_held_out_never_both(count, share, held):
    train, out = split_tiles([(i, i % 3, i + 1, i % 3 + 1) for i in range(count)], share, 7)
    assert sorted([*train, *out]) == list(range(count))
    assert len(out) == held


@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 3), st.floats(0, 0.4), st.integers(0, 99))
def test_no_ground_both_trains_and_judges(rows, cols, dates, overlap, seed):
    side = 1 + overlap
    boxes = [(c, r, c + side, r + side) for _ in range(dates) for r in range(rows) for c in range(cols)]
    try:
        train, out = split_tiles(boxes, 0.2, seed)
    except TrainingError:
        assert min(rows, cols) < 4  # nothing is left between the two
        return
    assert len(train)
    assert len(out)
    for i in train:
        for j in out:
            wide = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            high = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            assert min(wide, high) <= 1e-5


def test_tiles_of_one_place_are_refused(tmp_path):
    class OnePlace(NoiseTiles):
        def footprint(self, index):
            return 0.0, 0.0, 1.0, 1.0

    with pytest.raises(TrainingError, match="do not overlap"):
        adapt(tmp_path / "a.safetensors", tiles=OnePlace())


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_maps_are_turned_as_their_view_was(quarters, mirrored):
    turn = Turn(quarters, mirrored)
    x = torch.arange(2 * 3 * 5 * 5).view(2, 3, 5, 5)
    expected = np.rot90(x.numpy(), quarters, (-2, -1))
    assert (turn.apply(x).numpy() == (expected[..., ::-1] if mirrored else expected)).all()


def test_views_show_one_crop_and_nothing_where_nothing_was_seen():
    views = draw_views(NoiseTiles(blank_rows=40), np.arange(6), 64, 5, np.random.default_rng(1))
    assert views.plain.shape == views.other.shape == (5, 3, 64, 64)
    turned = views.turned(views.valid)
    assert not views.plain[(~views.valid)[:, None].expand_as(views.plain)].any()
    assert not views.other[(~turned)[:, None].expand_as(views.other)].any()
    plain, other = views.turned(views.plain), views.other
    alike = [np.corrcoef(p.flatten(), o.flatten())[0, 1] for p, o in zip(plain, other, strict=True)]
    assert min(alike) > 0.7
    again = draw_views(NoiseTiles(blank_rows=40), np.arange(6), 64, 5, np.random.default_rng(1))
    assert torch.equal(again.other, views.other)


def test_held_out_views_are_the_same_every_time():
    held = HeldOut(NoiseTiles(), [1, 2], 7, torch.device("cpu"))
    assert torch.equal(held._views(1).other, held._views(1).other)
    assert not torch.equal(held._views(1).other, held._views(2).other)
