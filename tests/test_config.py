import pytest
import yaml

from rs_pipeline.config import RunSettings, configs_folder, load_settings
from rs_pipeline.errors import ConfigError
from rs_pipeline.options import RefineSettings
from rs_pipeline.vocabulary import load_vocabulary


def test_the_shipped_file_holds_every_setting_and_nothing_else():
    shipped = yaml.safe_load((configs_folder() / "run.yaml").read_text())
    assert set(shipped) == set(RunSettings.model_fields)
    for name, field in RunSettings.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            assert set(shipped[name]) == set(field.annotation.model_fields)
    for name, field in RefineSettings.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            assert set(shipped["refine"][name]) == set(field.annotation.model_fields)


def test_later_wins_file_flags_set(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("gsd_m: 2.0\nworkers: {batch_size: 9, retries: 5}\n")
    settings = load_settings(mine, {"workers.batch_size": 8, "gsd_m": None}, ["workers.retries=7"])
    assert (settings.gsd_m, settings.workers.batch_size, settings.workers.retries) == (2.0, 8, 7)
    assert settings.workers.cluster == "auto"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wokers.count=2", "Did you mean 'workers'"),
        ("workers.cont=2", "Did you mean 'workers.count'"),
        ("gsd_m=-1", "greater than 0"),
        ("gsd_m=.inf", "finite"),
        ("gsd_m=abc", "valid number"),
        ("tile_px=1.5", "tile_px"),
        ("composite=oldst", "composite"),
        ("bands=[1,2]", "bands"),
        ("workers=3", "a mapping under workers"),
        ("gsd_m", "KEY=VALUE"),
        ("gsd_m=[1", "YAML"),
        ("radiometry.low_percent=99", "low_percent must be below high_percent"),
    ],
)
def test_a_bad_setting_is_one_line_that_says_what_to_do(text, message):
    with pytest.raises(ConfigError) as caught:
        load_settings(sets=[text])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_dates_and_numbers_are_text_where_text_is_wanted():
    settings = load_settings(sets=["datetime=2024-01-31", "out=123"])
    assert (settings.datetime, settings.out) == ("2024-01-31", "123")


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="mapping"):
        load_settings(tmp_path / "list.yaml")


def test_classes_keep_their_order_and_know_their_colours():
    classes = load_vocabulary("default").class_set(["Water", "street", "quay  wall"])
    assert [(c.value, c.name, c.prompts) for c in classes] == [
        (1, "water", ("water",)),
        (2, "street", ("street",)),
        (3, "quay wall", ("quay wall",)),
    ]
    road = load_vocabulary("default").class_set(["road"])
    assert next(iter(road)).colour == list(classes)[1].colour


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "class names"),
        (("road", ""), "class names"),
        (("road", "Road"), "'road' 2 times"),
        (tuple(map(str, range(300))), "at most 254"),
    ],
)
def test_bad_class_lists_are_refused(names, message):
    with pytest.raises(Exception, match=message) as caught:
        load_vocabulary("default").class_set(names)
    assert caught.value.exit_code == 2


def test_a_vocabulary_of_ones_own_by_path(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text('quay:\n  prompts: [quay, dock]\n  colour: "#010203"\n  threshold: 0.3\n')
    (quay,) = load_vocabulary(str(mine)).class_set(["quay"])
    assert (quay.prompts, quay.colour, quay.threshold) == (("quay", "dock"), (1, 2, 3), 0.3)
    mine.write_text("quay:\n  prompts: []\n  colour: red\n")
    with pytest.raises(ConfigError, match=r"quay\.prompts"):
        load_vocabulary(str(mine))


PRESETS = sorted(p.stem for p in (configs_folder() / "refine").glob("*.yaml"))


def test_the_presets_that_are_promised_are_there():
    assert {"none", "smooth", "lowpass", "clip", "laplacian", "guided", "recommended"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_and_does_what_its_name_says(name):
    refine = load_settings(flags={"refine.preset": name}).refine
    assert refine.preset == name
    expected = {"none": (), "guided": ("reweight",)}.get(name, (name,))
    if name != "recommended":
        assert refine.active == expected


def test_a_preset_is_the_ground_and_later_settings_change_it(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("steps: [laplacian, smooth]\nlaplacian: {temperature: 3}\n")
    refine = load_settings(flags={"refine.preset": str(mine)}, sets=["refine.smooth.strength=0.7"]).refine
    assert refine.active == ("laplacian", "smooth")
    assert (refine.laplacian.temperature, refine.smooth.strength) == (3, 0.7)
    file = tmp_path / "run.yaml"
    file.write_text(f"refine: {{preset: {mine}, smooth: {{at: backbone}}}}\n")
    assert load_settings(file).refine.smooth.at == "backbone"


def test_a_preset_may_speak_of_models_one_by_one(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("models:\n  rs-tiny: {steps: [smooth]}\n")
    flags = {"refine.preset": str(mine)}
    assert load_settings(flags=flags).refine.active == ("smooth",)
    assert load_settings(flags=flags | {"model": "sam3"}).refine.active == ()


def test_a_preset_knows_a_model_by_its_folder_too(tmp_path):
    from rs_model.weights import SHIPPED

    mine = tmp_path / "mine.yaml"
    mine.write_text("models:\n  rs-tiny: {steps: [smooth]}\n  sam3: {steps: [lowpass]}\n")
    sam3 = tmp_path / "sam3"
    sam3.mkdir()
    (sam3 / "config.json").write_text('{"model_type": "sam3_video"}')
    for model, steps in ((SHIPPED, ("smooth",)), (sam3, ("lowpass",)), (tmp_path, ())):
        assert load_settings(flags={"refine.preset": str(mine), "model": str(model)}).refine.active == steps


@pytest.mark.parametrize(
    "text", ["models: [rs-tiny]", "models: rs-tiny", "models: {rs-tiny: 3}", "steps: [smooth]\nmodels: {}", "- a", "{"]
)
def test_a_preset_of_another_form_is_one_line(tmp_path, text):
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(flags={"refine.preset": str(mine)})
    assert str(mine) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_strength_zero_takes_a_step_out():
    refine = load_settings(flags={"refine.preset": "smooth"}, sets=["refine.smooth.strength=0"]).refine
    assert refine.steps == ("smooth",)
    assert refine.active == ()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["refine.preset=smoth"], "guided, laplacian"),
        (["refine.preset=none", "refine.smooth.strength=0.1"], "refine.steps=[smooth]"),
        (["refine.preset=lowpass", "refine.smooth.strength=0.1"], "refine.steps=[lowpass, smooth]"),
        (["refine.query_gate.weights=x.safetensors"], "by: attention has none"),
        (["refine.preset=" + "x" * 300], "guided, laplacian"),
        (["refine.preset=smooth", "refine.smooth.strenth=0.1"], "Did you mean 'refine.smooth.strength'"),
        (["refine.preset=smooth", "refine.smooth.strength=-1"], "greater than or equal to 0"),
        (["refine.preset=lowpass", "refine.lowpass.strength=1.5"], "less than or equal to 1"),
        (["refine.steps=[smooth, smooth]"], "each step once"),
        (["refine.steps=[smoth]"], "refine.steps"),
        (["refine.steps=[query_gate]", "refine.query_gate.by=mlp"], "needs weights"),
        (["scoring.absent_below=2"], "less than or equal to 1"),
        (["dtype=float16"], "bfloat16"),
    ],
)
def test_a_bad_refinement_is_one_line_that_says_what_to_do(sets, message):
    with pytest.raises(ConfigError) as caught:
        load_settings(sets=sets)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
