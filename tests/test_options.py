"""What the model is told decides what the tiles hold: it is in their key, in the job, and checked while planning."""

import json

import pytest

from rs_pipeline.cli import main
from rs_pipeline.errors import SegmenterError, UsageError
from rs_pipeline.job import load_job
from rs_pipeline.plan import plan_run
from rs_pipeline.run import run


@pytest.fixture
def plan_of(make_scene, settings_for):
    scene = make_scene()

    def plan(*sets, classes=("road", "water")):
        return plan_run(settings_for(scene, sets=["tile_px=64", *sets], model="rs-tiny", classes=classes))

    return plan


@pytest.mark.parametrize(
    "sets",
    [
        ["refine.preset=smooth"],
        ["refine.preset=guided"],
        ["dtype=bfloat16"],
        ["scoring.presence_power=2"],
        ["scoring.top_queries=3"],
        ["scoring.apart=[road]"],
        ["scoring.calibrated=false"],
        ["scoring.tta.flips=true"],
        ["scoring.tta.scales=[1, 0.5]"],
        ["device=cuda"],
    ],
)
def test_tiles_of_other_options_are_other_tiles(plan_of, sets):
    assert plan_of("refine.preset=none").job.store != plan_of("refine.preset=none", *sets).job.store


@pytest.mark.parametrize("step", ["reweight", "presence_gate", "query_gate", "prune"])
def test_how_attention_is_read_counts_for_every_step_that_reads_it(plan_of, step):
    sets = [f"refine.steps=[{step}]", "refine.look.layers=1"]
    assert plan_of(sets[0]).job.store != plan_of(*sets).job.store
    assert plan_of("refine.preset=none").job.store == plan_of("refine.preset=none", "refine.look.layers=1").job.store


@pytest.mark.parametrize(
    "sets",
    [
        ["refine.preset=smooth", "refine.smooth.strength=0"],
        ["refine.lowpass.strength=0.7", "refine.steps=[lowpass]", "refine.lowpass.strength=0"],
        ["scoring.threshold=0.9"],
        ["prompt_batch=1"],
        ["scoring.apart=[]"],
    ],
)
def test_options_that_change_no_score_share_the_tiles(plan_of, sets):
    assert plan_of("refine.preset=none").job.store == plan_of("refine.preset=none", *sets).job.store


def test_one_threshold_for_all_replaces_each_classes_own(plan_of):
    assert [c.threshold for c in plan_of("scoring.threshold=0.9").job.classes] == [0.9, 0.9]
    assert plan_of("scoring.threshold=0.9").run_key != plan_of().run_key


def test_a_file_that_a_step_names_counts_by_its_content(plan_of, tmp_path):
    gate = tmp_path / "gate.safetensors"
    sets = ["refine.steps=[query_gate]", "refine.query_gate.by=mlp", f"refine.query_gate.weights={gate}"]
    gate.write_bytes(b"one")
    before = plan_of(*sets).job.store
    gate.write_bytes(b"two")
    assert plan_of(*sets).job.store != before


def test_the_job_carries_the_options_to_the_workers(plan_of):
    plan = plan_of("refine.preset=smooth", "refine.smooth.strength=0.3")
    assert load_job(plan.job.save()).options == plan.settings.options


def test_a_model_that_cannot_refine_says_so_before_anything_is_computed(make_scene, settings_for):
    with pytest.raises(SegmenterError, match=r"fake can do \(none\).*smooth.*--refine none"):
        plan_run(settings_for(make_scene(), sets=["refine.preset=smooth"]))


def test_clip_with_one_class_and_nothing_to_hold_it_against_is_said(plan_of):
    sets = ["refine.preset=clip"]
    assert any("contrast" in note for note in plan_of(*sets, classes=("road",)).notes)
    assert not any("contrast" in note for note in plan_of(*sets, "refine.clip.contrast=[sky]", classes=("road",)).notes)


def test_the_run_says_what_was_refined(make_scene, settings_for):
    summary = run(settings_for(make_scene(), sets=["refine.preset=none"]))
    assert summary["settings"]["refine"]["preset"] == "none"
    assert summary["settings"]["scoring"]["presence_power"] == 1.0


def test_the_flag_reaches_the_settings(make_scene, tmp_path, monkeypatch, capsys):
    def rs_seg(*arguments):
        monkeypatch.setattr("sys.argv", ["rs-seg", "run", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, capsys.readouterr()

    common = ["--source", make_scene(), "--classes", "road", "--out", tmp_path / "o" / "run", "--json", "--cluster", "in-process"]
    code, said = rs_seg(*common, "--refine", "smooth", "--set", "refine.smooth.strength=0.1", "--tile-px", "64")
    assert code == 0, said.err
    refine = json.loads(said.out)["settings"]["refine"]
    assert (refine["preset"], refine["steps"], refine["smooth"]["strength"]) == ("smooth", ["smooth"], 0.1)
    code, said = rs_seg(*common, "--refine", "smoth")
    assert code == 2
    assert "guided" in said.err
    assert said.err.count("\n") == 1


def test_classes_that_are_kept_apart_are_those_of_the_run_in_one_spelling(plan_of):
    one, other = (plan_of(f"scoring.apart=[{names}]", classes=("road", "building")) for names in ("buildings,road", "road,building,road"))
    assert one.job.options.scoring.apart == ("building", "road")
    assert one.run_key == other.run_key
    with pytest.raises(UsageError, match=r"scoring\.apart"):
        plan_of("scoring.apart=[castle]")
