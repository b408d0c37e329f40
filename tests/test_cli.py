"""The command line as users meet it: exit codes, one line of error, nothing else on stdout with --json."""

import json
import re
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest
import shapely
from conftest import random_pixels
from typer.testing import CliRunner

from rs_pipeline.cli import app, main

ROOT = Path(__file__).parent.parent


def rs_seg(capsys, *arguments):
    """(exit code, stdout, stderr) of one command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rs-seg", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code or 0
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def base(make_scene, tmp_path):
    def arguments(*more, scene=None, classes="road,water", model="fake_segmenter:pointwise"):
        scene = make_scene() if scene is None else scene
        given = ["run", "--source", scene, "--classes", classes, "--model", model, "--cluster", "in-process"]
        return [*given, "--out", tmp_path / "outputs" / "run", *more]

    return arguments


def test_json_is_one_summary_on_stdout_and_nothing_else(base, capsys, tmp_path):
    code, out, _ = rs_seg(capsys, *base("--json"))
    assert code == 0
    summary = json.loads(out)
    assert summary["tiles"]["planned"] == summary["tiles"]["computed"]
    assert Path(summary["out"]) == tmp_path / "outputs" / "run"


def test_the_summary_for_people_names_layers_and_folder(base, capsys, tmp_path):
    code, out, _ = rs_seg(capsys, *base())
    assert code == 0
    assert re.search(r"road +\d+ +[\d.,]+ ha +0\.\d\d", out)
    assert f"{tmp_path}/outputs/run/layers.gpkg" in out


@pytest.mark.parametrize("name", ["x[/y]", "z[/b]", "town[old]", "a!b", "p;q", ":so:"])
def test_names_are_printed_as_they_are(make_scene, capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make_scene("s[red]_20240501.tif", random_pixels())
    flags = ["--source", "s[red]_20240501.tif", "--classes", f"water,k{name}", "--model", "fake_segmenter:pointwise", "--out", f"o/{name}"]
    code, out, _ = rs_seg(capsys, "run", *flags, "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, f"out     o/{name}")
    assert "s[red]_20240501" in out
    code, out, _ = rs_seg(capsys, "run", *flags)
    assert (code, out.splitlines()[-2:]) == (0, [f"o/{name}/layers.gpkg", f"o/{name}/report.html"])
    assert re.search(rf"^ k{re.escape(name)} +\d+ ", out, re.MULTILINE)
    for _ in range(2):  # the second reads what the first left
        code, out, _ = rs_seg(capsys, "compare", f"o/{name}", f"o/{name}", "--out", f"c/{name}")
        assert (code, out.splitlines()[-1]) == (0, f"c/{name}/changes.gpkg")
        assert re.search(rf"^ k{re.escape(name)} +[\d.]+ ha ", out, re.MULTILINE)


@pytest.mark.parametrize("name", ["s[red]_20240501", "t:so:_20240501"])
def test_the_catalog_lists_names_as_they_are(make_scene, capsys, tmp_path, name):
    catalog = tmp_path / "cat" / "catalog.json"
    rs_seg(capsys, "catalog", "add", make_scene(f"{name}.tif"), "--catalog", catalog)
    code, out, _ = rs_seg(capsys, "catalog", "list", "--catalog", catalog)
    assert code == 0
    assert f" {name} " in out


def test_failed_tiles_are_exit_code_3_and_said(base, make_scene, capsys):
    pixels = random_pixels()
    pixels[0, 70:75, 90:95] = 250
    scene = make_scene(pixels=pixels)
    code, out, err = rs_seg(capsys, *base("--set", "radiometry.high_percent=100", "--json", scene=scene, model="fake_segmenter:failing"))
    assert code == 3
    assert json.loads(out)["status"] == "partial"
    assert "failed and is not observed: RuntimeError" in err


def test_a_dry_run_writes_nothing_and_says_what_a_run_would_do(base, capsys, tmp_path):
    code, out, _ = rs_seg(capsys, *base("--dry-run", "--json"))
    report = json.loads(out)
    assert code == 0
    assert report["tiles"]["planned"] == 12
    assert report["seconds_per_tile"] > 0
    assert report["disk_bytes"] > 12 * 64 * 64
    assert report["grid"]["height"] == 150
    assert not (tmp_path / "outputs").exists()
    code, out, _ = rs_seg(capsys, *base("--dry-run"))
    assert code == 0
    for word in ("scene", "grid", "tiles", "memory", "disk", "time"):
        assert word in out


def test_bad_input_is_one_line_an_exit_code_and_nothing_left(base, make_scene, capsys, tmp_path):
    grey = make_scene("grey.tif", random_pixels(bands=1))
    empty = make_scene("empty.tif", random_pixels() * 0, nodata=0)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(make_scene("whole.tif").read_bytes()[:40_000])
    far = tmp_path / "far.geojson"
    gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(far)
    (tmp_path / "config.yaml").write_text("tile_pixels: 64\n")
    cases = [
        (base("--aoi", tmp_path / "no.geojson"), 1, "does not exist"),
        (base("--aoi", far), 1, "a scene that meets the AOI"),
        (base("--aoi", "1,2,3"), 1, "minx,miny,maxx,maxy"),
        (base(scene=tmp_path / "no.tif"), 1, "does not exist"),
        (base(scene=grey), 1, "red, green and blue"),
        (base(scene=empty), 1, "valid pixels"),
        (base(scene=cut), 1, "a whole file"),
        (base(classes="road,road"), 2, "each class once"),
        (base(classes=""), 2, "class names"),
        (base(classes="road,castle", model="fake_segmenter:narrow"), 1, "'castle'"),
        (base(model="sam9"), 1, "an installed model"),
        (base(model=str(tmp_path)), 1, "config.json"),
        (base(model="nowhere:nothing"), 1, "package.module:callable"),
        (base(model=":"), 1, "package.module:callable"),
        (base(model="json:loads"), 1, "package.module:callable"),
        (base(model="fake_segmenter:Failing"), 1, "package.module:callable"),
        (base("--dry-run", model="fake_segmenter:broken"), 1, "a model that can segment a tile"),
        (base("--dry-run", "--cluster", "tcp://127.0.0.1:1", "--set", "workers.connect_timeout_s=0.2"), 1, "a running Dask scheduler"),
        (base(classes=",".join(f"c{i}" for i in range(300))), 2, "at most 254 classes"),
        (base(classes="gpkg_x"), 2, "can be layers"),
        (base(classes="gpkg"), 2, "can be layers"),
        (base("--crs", "IAU_2015:30100"), 2, "a CRS that places on Earth can have"),
        (base(classes="../b"), 2, "begin with a letter"),
        (base("--aoi", "9.0001,47.8501,9.0001001,47.8501001"), 1, "the centre of a pixel|a scene that meets"),
        (base("--nonsense"), 2, "No such option"),
        (base("--gsd", "1e-6"), 2, "a grid of at most"),
        (base("--set", "nodata=300"), 1, "a nodata value that uint8 can hold"),
        (base("--set", "nodata=0.5"), 1, "a nodata value that uint8 can hold"),
        (base("--set", "nodata=.nan"), 2, "finite"),
        (base(scene=""), 1, "which does not exist"),
        (base("--gsd", "-1"), 2, "greater than 0"),
        (base("--gsd", "fine"), 2, "'--gsd'"),
        (base("--tile-px", "64", "--overlap-px", "40"), 2, "half a tile"),
        (base("--set", "tile_pix=64"), 2, "Did you mean 'tile_px'"),
        (base("--config", tmp_path / "config.yaml"), 2, "Did you mean 'tile_px'"),
        (base("--config", tmp_path / "none.yaml"), 2, "none.yaml"),
        (base("--datetime", "yesterday"), 2, "--datetime"),
        (base("--cluster", "tcp://127.0.0.1:1", "--set", "workers.connect_timeout_s=0.2"), 1, "a running Dask scheduler"),
        (base("--cluster", "slurm"), 1, "in-process, local, cuda"),
    ]
    for arguments, expected_code, message in cases:
        code, out, err = rs_seg(capsys, *arguments)
        assert code == expected_code, f"{arguments}: {code} {err}"
        assert any(part in err for part in message.split("|")), f"{arguments}: {err}"
        assert out == ""
        assert len(err.strip().splitlines()) == 1, err
        assert err.startswith("rs-seg: ")
        assert not (tmp_path / "outputs" / "run").exists()


def test_a_class_name_never_becomes_a_path(make_scene, capsys, tmp_path):
    flags = ["--source", make_scene(), "--classes", "a/b,bare ground", "--model", "fake_segmenter:pointwise", "--json"]
    code, out, _ = rs_seg(capsys, "run", *flags, "--set", f"outputs={tmp_path / 'runs'}")
    assert code == 0
    assert Path(json.loads(out)["out"]).parent == tmp_path / "runs"
    assert set(gpd.list_layers(Path(json.loads(out)["out"]) / "layers.gpkg")["name"]) >= {"a/b", "bare ground", "coverage"}


def test_an_unknown_word_lists_what_the_model_knows_and_names_the_full_model(base, capsys):
    _, _, err = rs_seg(capsys, *base(classes="castle", model="fake_segmenter:narrow"))
    assert "road, water" in err
    assert "The full model, sam3" in err


def test_the_command_line_starts_without_the_heavy_libraries():
    heavy = {"torch", "rasterio", "distributed", "geopandas", "prefect", "numpy"}
    code = f"import sys, rs_pipeline.cli; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_catalog_commands_add_list_and_validate(make_scene, capsys, tmp_path):
    scene, catalog = make_scene("a_20240501.tif"), tmp_path / "cat" / "catalog.json"
    assert rs_seg(capsys, "catalog", "add", scene, "--catalog", catalog)[1].startswith("1 added, 0 renewed, 0 unchanged in ")
    assert rs_seg(capsys, "catalog", "add", scene, "--catalog", catalog)[1].startswith("0 added, 0 renewed, 1 unchanged in ")
    code, out, _ = rs_seg(capsys, "catalog", "list", "--catalog", catalog, "--json")
    assert (code, [row["id"] for row in json.loads(out)]) == (0, ["a_20240501"])
    assert "a_20240501" in rs_seg(capsys, "catalog", "list", "--catalog", catalog)[1]
    assert rs_seg(capsys, "catalog", "validate", "--catalog", catalog)[:2] == (0, "1 items, all valid\n")
    code, _, err = rs_seg(capsys, "catalog", "add", scene, "--catalog", catalog, "--datetime", "/2024-01-01")
    assert (code, "one date or time" in err) == (2, True)
    (catalog.parent / "scenes" / "collection.json").rename(tmp_path / "kept.json")
    code, _, err = rs_seg(capsys, "catalog", "add", scene, "--catalog", catalog)
    assert (code, "links lead somewhere" in err, len(err.strip().splitlines())) == (1, True, 1)
    (tmp_path / "kept.json").rename(catalog.parent / "scenes" / "collection.json")
    scene.unlink()
    code, _, err = rs_seg(capsys, "catalog", "validate", "--catalog", catalog)
    assert (code, "1 problems" in err) == (1, True)


def test_without_a_source_the_catalog_is_searched(base, make_scene, capsys, tmp_path):
    make_scene("archive/near_20240501.tif")
    make_scene("archive/far_20240501.tif", origin=(600_000, 5_400_000))
    make_scene("archive/old_20100501.tif")
    catalog = tmp_path / "cat" / "catalog.json"
    rs_seg(capsys, "catalog", "add", tmp_path / "archive", "--catalog", catalog)
    aoi = tmp_path / "aoi.geojson"
    place = gpd.GeoSeries([shapely.box(500_010, 5_299_950, 500_050, 5_299_990)], crs=32632).to_crs(4326)
    gpd.GeoDataFrame(geometry=place).to_file(aoi)
    flags = ["--classes", "road", "--model", "fake_segmenter:pointwise", "--out", tmp_path / "o" / "run", "--json"]
    where = ["--set", f"catalog={catalog}", "--aoi", aoi, "--datetime", "2020-01-01/"]
    code, out, _ = rs_seg(capsys, "run", *flags, *where)
    assert (code, [s["id"] for s in json.loads(out)["scenes"]]) == (0, ["near_20240501"])


def test_models_are_listed_and_shown(capsys):
    code, out, _ = rs_seg(capsys, "models", "show", "fake_segmenter:pointwise")
    assert (code, json.loads(out)["gsd_m"]) == (0, 0.5)
    assert rs_seg(capsys, "models", "list")[1].startswith("rs-tiny\t")


def test_training_says_what_it_lacks_in_one_line(capsys, tmp_path):
    recipe, flags = ROOT / "configs" / "train" / "rs-tiny.yaml", ["--data", tmp_path / "none", "--out", tmp_path / "out"]
    none = ROOT / "configs" / "classes" / "default.yaml"
    for config, message in ((recipe, "a folder of training data"), (none, "`model:` one of rs-clip, rs-tiny")):
        code, _, err = rs_seg(capsys, "train", "--config", config, *flags)
        assert code in {1, 2}
        assert message in err
        assert len(err.strip().splitlines()) == 1


def test_every_command_and_every_flag_of_run_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    flags = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}
    assert {f for f in flags if f not in readme} == set()
    groups = [(group.name, group.typer_instance) for group in app.registered_groups]
    commands = [(app.registered_commands, ""), *((typer.registered_commands, f"{name} ") for name, typer in groups)]
    for command in [f"{prefix}{command.name}" for found, prefix in commands for command in found]:
        assert f"rs-seg {command}" in readme
