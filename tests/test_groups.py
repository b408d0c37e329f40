"""Change a colour and nothing is computed; change a prompt, and only that."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import random_pixels
from run_folder import UNSEEN, everything, labels_of, scores_of

from rs_pipeline.errors import StoreError
from rs_pipeline.groups import held
from rs_pipeline.plan import plan_run
from rs_pipeline.reporting import Silent
from rs_pipeline.run import run


@pytest.fixture
def computed(monkeypatch, tmp_path):
    """What the segmenter was asked since the last look: words of a batch's classes to tiles."""
    log = tmp_path / "log"
    monkeypatch.setenv("RS_SEG_TEST_LOG", str(log))

    def look():
        counts = Counter(log.read_text().splitlines()) if log.exists() else Counter()
        log.unlink(missing_ok=True)
        return dict(counts)

    return look


@pytest.fixture
def ask(make_scene, settings_for, tmp_path):
    """Settings of a run for classes, each `name` or `name:prompt/prompt`, in a store that all of them share."""
    scene = make_scene()

    def make(*classes, out=None, model="by_word", **flags):
        pairs = [c.partition(":")[::2] for c in classes]
        vocabulary = tmp_path / f"{'-'.join(classes).replace('/', '_').replace(':', '_')}.yaml"
        vocabulary.write_text("".join(f"{n}: {{prompts: [{(p or n).replace('/', ', ')}], colour: '#123456'}}\n" for n, p in pairs))
        given = {"source": scene, "classes": tuple(n for n, _ in pairs), "vocabulary": str(vocabulary)} | flags
        return settings_for(model=f"fake_segmenter:{model}", out=str(tmp_path / "outputs" / (out or vocabulary.stem)), **given)

    return make


def fresh(settings, tmp_path):
    """What a run makes in an empty store."""
    return everything(run(settings.model_copy(update={"out": str(tmp_path / "fresh" / Path(settings.out).name)}))["out"])


def test_a_new_prompt_is_computed_alone_and_the_result_is_that_of_a_fresh_run(ask, computed, tmp_path):
    planned = run(ask("road", "water", "building"))["tiles"]["planned"]
    assert computed() == {"road+water+building": planned}
    changed = ask("road", "water:lake/pond", "building")
    summary = run(changed)
    assert computed() == {"lake pond": planned}
    assert summary["tiles"]["classes"] == {"road": "reused", "water": "computed", "building": "reused"}
    assert len(summary["tiles"]["groups"]) == 2
    assert everything(summary["out"]) == fresh(changed, tmp_path)


@pytest.mark.parametrize("classes", [("building", "road", "water"), ("water",), ("water", "road"), ("street:road", "water")])
def test_classes_that_are_there_are_not_computed_in_whatever_order_and_company(ask, computed, tmp_path, classes):
    run(ask("road", "water", "building"))
    computed()
    summary = run(ask(*classes))
    assert computed() == {}
    assert set(summary["tiles"]["classes"].values()) == {"reused"}
    assert everything(summary["out"]) == fresh(ask(*classes), tmp_path)


def test_three_groups_make_one_picture(ask, computed, tmp_path):
    for classes in (("road",), ("water", "forest"), ("building", "sand")):
        run(ask(*classes))
    computed()
    wanted = ask("sand", "road", "forest", "building", "grass")
    summary = run(wanted)
    assert set(computed()) == {"grass"}
    assert len(summary["tiles"]["groups"]) == 4
    assert everything(summary["out"]) == fresh(wanted, tmp_path)


def test_a_fresh_run_is_one_group_computed_in_one_pass(ask, computed, tmp_path):
    run(ask("road", "water"))
    assert set(computed()) == {"road+water"}
    [base] = (tmp_path / "outputs" / ".tiles").iterdir()
    assert sorted(len(p.name) for p in base.iterdir() if p.is_dir()) == [len("runs"), 16]


def test_a_model_whose_classes_hang_together_computes_all_of_them(ask, computed):
    planned = run(ask("road", "water", model="together_by_word"))["tiles"]["planned"]
    run(ask("road", "lake", model="together_by_word"))
    run(ask("road", model="together_by_word"))
    assert computed() == {"road+water": planned, "road+lake": planned, "road": planned}


def test_a_group_that_is_not_complete_lends_nothing(ask, computed, tmp_path):
    run(ask("road", "water"))
    computed()
    next((tmp_path / "outputs" / ".tiles").rglob("t00000005.npy")).unlink()
    planned = run(ask("road"))["tiles"]["planned"]
    assert computed() == {"road": planned}
    # Its own run mends it, and then it is complete.
    summary = run(ask("road", "water", out="again"))
    assert computed() == {"road+water": 1}
    assert summary["tiles"]["classes"] == {"road": "computed", "water": "computed"}


def test_a_run_goes_on_in_the_way_that_leaves_least_to_compute(ask, computed, tmp_path):
    def leave(tiles):
        settings = ask("road", "water")
        run(settings)
        store = Path(plan_run(settings).job.store.where)
        for path in [store / "complete", *sorted(store.rglob("t*.npy"))[tiles:]]:
            path.unlink()

    leave(10)
    planned = run(ask("road"))["tiles"]["planned"]
    computed()
    # Two tiles of two classes are less than twelve tiles of one.
    run(ask("road", "water", out="second"))
    assert computed() == {"road+water": planned - 10}
    leave(1)
    computed()
    run(ask("road", "water", out="third"))
    assert computed() == {"water": planned}


def test_a_tile_that_one_group_lacks_is_not_observed(make_scene, ask, computed):
    pixels = random_pixels()
    pixels[0, 70:75, 90:95] = 250
    flags = {"model": "failing_by_word", "sets": ["radiometry.high_percent=100"], "source": make_scene("spot.tif", pixels)}
    run(ask("road", **flags))
    summary = run(ask("road", "lake", **flags))
    failed = {f["index"] for f in summary["tiles"]["failed"]}
    assert 0 < len(failed) < summary["tiles"]["planned"]
    labels, scores = labels_of(summary["out"]), scores_of(summary["out"])
    for index in range(12):
        row, col = divmod(index, 4)
        core = slice(row * 56, row * 56 + 56), slice(col * 56, col * 56 + 56)
        assert ((labels[core] == UNSEEN) == (index in failed)).all()
        assert ((scores[(slice(None), *core)] == UNSEEN) == (index in failed)).all()
    computed()
    run(ask("lake", **flags, out="lake"))
    assert set(computed()) <= {"lake"}, "a group with failed tiles is not complete"


def test_empty_tiles_are_empty_in_all_groups(make_scene, ask, tmp_path):
    pixels = random_pixels()
    pixels[:, :60, :60] = 0
    source = make_scene("hole.tif", pixels, nodata=0)
    run(ask("road", source=source))
    summary = run(ask("road", "water", source=source))
    assert summary["tiles"]["empty"] == 1
    assert everything(summary["out"]) == fresh(ask("road", "water", source=source), tmp_path)


def test_two_runs_may_read_one_group_but_not_write_one(ask):
    run(ask("road", "water"))
    with held(plan_run(ask("road", "lake")).work):
        assert run(ask("water", "road"))["tiles"]["computed"] == 0
        assert run(ask("road", "forest"))["tiles"]["classes"] == {"road": "reused", "forest": "computed"}
        with pytest.raises(StoreError, match="one run at a time"):
            run(ask("lake"))


def test_a_store_that_changes_under_a_plan_is_refused(ask):
    from rs_pipeline.clean import clean

    settings = ask("road")
    run(settings)
    work = plan_run(settings).work
    clean(Path(settings.out).parent)
    with pytest.raises(StoreError, match=r"changes in .* Run again"), held(work):
        pass


def test_another_version_of_the_models_code_shares_no_tiles(ask, computed, monkeypatch):
    import dataclasses

    import fake_segmenter

    info = fake_segmenter.Provider.info
    planned = run(ask("road"))["tiles"]["planned"]
    monkeypatch.setattr(fake_segmenter.Provider, "info", lambda self: dataclasses.replace(info(self), code_version=2))
    summary = run(ask("road", out="again"))
    assert computed() == {"road": 2 * planned}
    assert summary["model"]["code_version"] == 2


def test_the_run_key_changes_with_the_prompts(ask):
    assert plan_run(ask("road")).run_key != plan_run(ask("road:street")).run_key


@pytest.mark.parametrize(("refine", "shared"), [("none", True), ("smooth", True), ("guided", True), ("clip", False)])
def test_classes_of_the_models_share_a_store_unless_clip_compares_them(make_scene, settings_for, refine, shared):
    scene = make_scene()

    def base(*classes):
        return plan_run(settings_for(scene, model="rs-tiny", classes=classes, sets=[f"refine.preset={refine}"])).job.base

    assert (base("road", "water") == base("road", "building")) == shared
    assert base("road", "water") == base("road", "water")


def test_what_the_store_has_is_said(ask):
    class Listener(Silent):
        def __init__(self):
            self.notes = []

        def note(self, text):
            self.notes.append(text)

    run(ask("road", "water"), first := Listener())
    run(ask("water", "building", "road"), second := Listener())
    assert not any("the store has" in note for note in first.notes)
    assert "the store has water, road already: only building to compute" in second.notes


def test_the_small_model_scores_a_class_alike_in_any_company(make_scene, settings_for, tmp_path):
    """Not to the last bit: sums of other shapes round otherwise. See docs/decisions/0014."""
    scene = make_scene(pixels=random_pixels(300, 340))

    def asked(name, *classes):
        return run(settings_for(scene, model="rs-tiny", classes=classes, out=str(tmp_path / name)))

    asked("shared/road", "road")
    mixed, fresh = (asked(f"{store}/all", "water", "road", "building") for store in ("shared", "fresh"))
    assert mixed["tiles"]["classes"] == {"water": "computed", "road": "reused", "building": "computed"}
    difference = np.abs(scores_of(mixed["out"]).astype(int) - scores_of(fresh["out"]))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_the_marker_says_what_the_bands_are(ask, tmp_path):
    run(ask("road", "water:lake/pond"))
    [marker] = (tmp_path / "outputs" / ".tiles").glob("*/*/complete")
    assert json.loads(marker.read_text()) == {"prompts": [["road"], ["lake", "pond"]]}
