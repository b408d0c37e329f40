"""The flows with a real Prefect server: runs, retries, artifacts, deployments, schedules."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import random_pixels
from prefect_server import PREFECT, prefect_server, worker
from run_folder import everything, labels_of

from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.errors import ClusterError, UsageError
from rs_pipeline.run import run

RS_SEG = [sys.executable, "-m", "rs_pipeline"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Environment of processes that find the server; this one finds it too."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with prefect_server(tmp_path_factory.mktemp("prefect")) as environment:
        here = {PREFECT_API_URL: environment["PREFECT_API_URL"], PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with temporary_settings(here):
            yield environment
            # Else they look for the server at this process's end, and start one.
            APILogWorker.instance().drain()
            EventsWorker.drain_all()


@pytest.fixture
def client(server):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def archive(dated_archive):
    """Its stages are tried again at once."""
    stages = {name: {"backoff_s": 0.1} for name in ("plan", "infer", "stitch", "vectorize", "publish")}
    return dated_archive | {"name": "flow-archive", "stages": stages}


def runs_of(client, flow, name):
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter

    flows = FlowFilter.model_validate({"name": {"any_": [flow]}})
    return client.read_flow_runs(flow_filter=flows, flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": [name]}}))


def artifacts_of(client, flow_run):
    from prefect.client.schemas.filters import ArtifactFilter

    return client.read_artifacts(artifact_filter=ArtifactFilter.model_validate({"flow_run_id": {"any_": [str(flow_run.id)]}}))


def logs_of(client, flow_run):
    from prefect.client.schemas.filters import LogFilter

    return [log.message for log in client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [str(flow_run.id)]}}), limit=200)]


def eventually(look, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.3)
    return found


def test_a_flow_run_is_the_run_with_stages_and_artifacts(client, make_scene, settings_for, tmp_path):
    from rs_flows.commands import run_aoi

    scene = make_scene()
    flowing = run_aoi(settings_for(scene, out=str(tmp_path / "outputs" / "flow")))
    plain = run(settings_for(scene, out=str(tmp_path / "outputs" / "plain")))
    np.testing.assert_array_equal(labels_of(flowing["out"]), labels_of(plain["out"]))
    [flow_run] = runs_of(client, "segment-aoi", "flow")
    assert flow_run.state.is_completed()
    from prefect.client.schemas.filters import FlowRunFilter

    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [str(flow_run.id)]}}))
    assert {task.name for task in tasks} == {"plan", "infer", "stitch", "vectorize", "publish"}
    assert eventually(lambda: {a.type for a in artifacts_of(client, flow_run)} >= {"table", "markdown", "progress"})
    found = artifacts_of(client, flow_run)
    rows = json.loads(next(a.data for a in found if a.type == "table"))
    assert [(row["layer"], row["polygons"]) for row in rows] == [(c["name"], c["polygons"]) for c in plain["classes"]]
    words = [a.data for a in found if a.type == "markdown"]
    assert any("data:image/jpeg;base64,/9j/" in text for text in words)
    assert any(Path(flowing["out"]).as_uri() in text for text in words)
    assert {a.data for a in found if a.type == "progress"} == {100.0}


def test_a_stage_that_raises_is_tried_again_and_goes_on_where_it_was(client, make_scene, settings_for, tmp_path, monkeypatch):
    from rs_flows.segment_aoi import segment_aoi

    from rs_pipeline import run as pipeline
    from rs_pipeline.errors import StoreError

    tries, stitch = [], pipeline.stitch

    def shaky(*args):
        tries.append(1)
        if len(tries) == 1:
            raise StoreError("a store that answers", "none", "Wait.")
        return stitch(*args)

    monkeypatch.setattr(pipeline, "stitch", shaky)
    settings = settings_for(make_scene()).model_dump(mode="json")
    summary = segment_aoi(settings, {"stitch": {"retries": 2, "backoff_s": 0.1}}, "shaky")
    assert len(tries) == 2
    assert summary["status"] == "complete"
    assert labels_of(summary["out"]).shape == (150, 170)


@pytest.mark.parametrize("stage", ["stitch", "vectorize", "write_manifest", "check_unchanged"])
def test_each_stage_can_be_called_again_after_it_was_done(make_scene, settings_for, stage, monkeypatch, tmp_path):
    from rs_pipeline import run as pipeline
    from rs_pipeline.errors import OutputError
    from rs_pipeline.plan import plan_run
    from rs_pipeline.reporting import Silent

    scene = make_scene()
    plain = run(settings_for(scene, out=str(tmp_path / "outputs" / "plain")))
    real, tries = getattr(pipeline, stage), []

    def shaky(*args, **kwargs):
        found = real(*args, **kwargs)
        tries.append(1)
        if len(tries) == 1:
            raise OutputError("room", "none for a moment", "Free some.")
        return found

    monkeypatch.setattr(pipeline, stage, shaky)

    def twice(name, do):
        try:
            return do()
        except OutputError:
            return do()

    summary = pipeline.execute(plan_run(settings_for(scene)), Silent(), twice)
    assert len(tries) > 1
    assert everything(summary["out"]) == everything(plain["out"])


def test_a_server_that_goes_away_is_not_the_run_s_trouble(client, make_scene, settings_for, monkeypatch):
    from rs_flows import artifacts, reporting
    from rs_flows.segment_aoi import segment_aoi

    def refuse(*args, **kwargs):
        raise ConnectionError("gone")

    for module, name in ((reporting, "create_progress_artifact"), (artifacts, "create_table_artifact")):
        monkeypatch.setattr(module, name, refuse)
    settings = settings_for(make_scene()).model_dump(mode="json")
    assert segment_aoi(settings, None, "unseen")["status"] == "complete"
    [flow_run] = runs_of(client, "segment-aoi", "unseen")

    def said():
        return len([text for text in logs_of(client, flow_run) if "does not take what there is to show" in text])

    assert eventually(lambda: said() == 2)


def test_what_no_other_try_would_mend_is_not_tried_again(server, make_scene, settings_for, monkeypatch):
    from rs_flows import segment_aoi as module
    from rs_flows.commands import run_aoi

    tries, plan_run = [], module.plan_run
    monkeypatch.setattr(module, "plan_run", lambda settings: tries.append(1) or plan_run(settings))
    with pytest.raises(UsageError, match="overlap"):
        run_aoi(settings_for(make_scene(), tile_px=64, overlap_px=60))
    assert len(tries) == 1


def test_a_stage_that_takes_too_long_fails(server, make_scene, settings_for):
    from prefect.exceptions import PrefectException
    from rs_flows.segment_aoi import segment_aoi

    settings = settings_for(make_scene(), model="fake_segmenter:slow").model_dump(mode="json")
    with pytest.raises((PrefectException, TimeoutError)):
        segment_aoi(settings, {"infer": {"retries": 0, "timeout_s": 0.5}}, "late")
    assert not Path(settings["out"]).exists()


@pytest.mark.parametrize("cluster", ["in-process", "local"])
def test_what_workers_say_is_in_the_log_of_the_flow_run(client, make_scene, settings_for, cluster):
    from rs_flows.segment_aoi import segment_aoi

    full = {"radiometry.low_percent": 0.0, "radiometry.high_percent": 100.0}
    settings = settings_for(make_scene(), model="fake_segmenter:failing", **full, **{"workers.cluster": cluster, "workers.count": 1})
    state = segment_aoi(settings.model_dump(mode="json"), None, f"failing {cluster}", return_state=True)
    assert (state.name, state.is_completed()) == ("Partial", True)
    [flow_run] = runs_of(client, "segment-aoi", f"failing {cluster}")
    assert eventually(lambda: [text for text in logs_of(client, flow_run) if "RuntimeError: red is too much" in text and "tile" in text])


def test_an_archive_as_a_flow_run_goes_on_past_a_failure_and_says_so(client, archive, tmp_path):
    from rs_flows.commands import run_archive

    from rs_pipeline.archive_config import load_archive

    (tmp_path / "images" / "s_20240201.tif").unlink()
    archive["concurrency"] = 2
    found = run_archive(load_archive(archive), retry=False)
    assert {item["item"]: item["status"] for item in found["items"]} == {
        "scenes/s_20240101": "done", "scenes/s_20240201": "failed", "scenes/s_20240301": "done",
    }  # fmt: skip
    [flow_run] = runs_of(client, "segment-archive", "flow-archive")
    assert (flow_run.state.name, flow_run.state.is_failed()) == ("Partial", True)
    assert "1 of 3 items: scenes/s_20240201" in flow_run.state.message
    [table] = eventually(lambda: [json.loads(a.data) for a in artifacts_of(client, flow_run) if a.type == "table"])
    assert (table[0]["item"], table[0]["status"]) == ("scenes/s_20240201", "failed")
    assert "s_20240201.tif" in table[0]["error"]
    again = run_archive(load_archive(archive), retry=False)
    assert [item["item"] for item in again["items"]] == ["scenes/s_20240201"]
    assert again["already_done"] == 2


def test_ids_with_braces_and_a_crash_of_one_item_do_not_stop_an_archive(server, make_scene, archive, tmp_path, monkeypatch):
    from rs_flows import segment_archive as module
    from rs_flows.commands import run_archive

    from rs_pipeline.archive_config import load_archive

    make_scene("images/a{b}.tif", random_pixels(seed=5), nodata=0)
    add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "images")], None)
    do_item = module.do_item

    def shaky(archive, entry, *args):
        if entry.id == "s_20240101":
            raise RuntimeError("out of memory")
        return do_item(archive, entry, *args)

    monkeypatch.setattr(module, "do_item", shaky)
    found = run_archive(load_archive(archive), retry=False)
    assert {item["item"]: item["status"] for item in found["items"]} == {
        "scenes/a{b}": "done", "scenes/s_20240101": "failed", "scenes/s_20240201": "done", "scenes/s_20240301": "done",
    }  # fmt: skip
    assert "RuntimeError: out of memory" in {item["error"] for item in found["items"]}


def test_an_item_that_takes_too_long_is_one_failure(server, archive):
    from rs_flows.commands import run_archive

    from rs_pipeline.archive_config import load_archive

    archive["run"] |= {"model": "fake_segmenter:slow", "datetime": "2024-02-01"}
    archive["stages"] |= {"infer": {"retries": 0, "timeout_s": 0.6}}
    began = time.monotonic()
    [item] = run_archive(load_archive(archive), retry=False)["items"]
    assert (item["status"], "Timeout" in item["error"]) == ("failed", True)
    assert time.monotonic() - began < 0.2 * 12 + 3


def test_a_deployment_runs_on_a_worker_to_its_end_and_on_its_schedule(server, client, archive, tmp_path):
    archive["name"] = "deployed"
    (tmp_path / "archive.yaml").write_text(json.dumps(archive))

    def deploy(cron):
        command = [*RS_SEG, "deploy", "--archive", "archive.yaml", "--cron", cron, "--pool", "tests"]
        return subprocess.run(command, cwd=tmp_path, env=server, check=True, capture_output=True, text=True).stdout

    # Of two runs at once the later one is cancelled: the schedule has to wait for the run that is watched.
    assert "segment-archive/deployed at '0 0 1 1 *' UTC" in deploy("0 0 1 1 *")
    with worker("tests", server, tmp_path, tmp_path / "worker.log"):
        start = [PREFECT, "deployment", "run", "segment-archive/deployed", "--watch", "--watch-interval", "1"]
        ran = subprocess.run(start, env=server, check=False, capture_output=True, text=True, timeout=150)
        assert ran.returncode == 0, ran.stdout + ran.stderr + (tmp_path / "worker.log").read_text()
        assert sorted(p.name for p in (tmp_path / "runs" / "scenes").iterdir() if (p / "run.json").is_file()) == [
            "s_20240101", "s_20240201", "s_20240301",
        ]  # fmt: skip
        deploy("* * * * *")

        def fired():
            return [r for r in deployment_runs(client) if r.auto_scheduled and r.state.is_completed()]

        assert eventually(fired, 150), (tmp_path / "worker.log").read_text()


def deployment_runs(client):
    deployment = client.read_deployment_by_name("segment-archive/deployed")
    from prefect.client.schemas.filters import FlowRunFilter

    return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"deployment_id": {"any_": [str(deployment.id)]}}))


def test_a_trial_of_an_archive_is_a_flow_run_and_can_be_scheduled(server, client, archive, tmp_path, monkeypatch):
    from rs_flows.commands import run_adaptation

    from rs_pipeline.archive_config import load_archive

    adapting = {"held_out": 1, "newest": 2}
    archive |= {"name": "adapting", "run": archive["run"] | {"model": "fake_segmenter:adapting"}, "adapt": adapting}
    monkeypatch.setenv("RS_SEG_TEST_GOOD", "0.8")
    trial = run_adaptation(load_archive(archive))
    assert (trial["promoted"], trial["consistency"]["new"]) == (True, 0.8)
    monkeypatch.setenv("RS_SEG_TEST_GOOD", "0.7")
    assert not run_adaptation(load_archive(archive))["promoted"]
    monkeypatch.setenv("RS_SEG_TEST_GOOD", "-1")
    assert "does not get worse" in run_adaptation(load_archive(archive))["error"]
    runs = runs_of(client, "adapt-model", "adapting")
    assert sorted(flow_run.state.name for flow_run in runs) == ["Failed", "Kept", "Promoted"]
    promoted = next(flow_run for flow_run in runs if flow_run.state.name == "Promoted")
    assert eventually(lambda: {a.type for a in artifacts_of(client, promoted)} >= {"table", "markdown"})
    rows = json.loads(next(a.data for a in artifacts_of(client, promoted) if a.type == "table"))
    assert rows[0] == {"adapter": "new", "held-out consistency": 0.8}
    (tmp_path / "archive.yaml").write_text(json.dumps(archive))
    command = [*RS_SEG, "deploy", "--archive", "archive.yaml", "--cron", "0 4 * * 0", "--pool", "tests", "--adapt"]
    done = subprocess.run(command, cwd=tmp_path, env=server, check=True, capture_output=True, text=True)
    assert "adapt-model/adapting at '0 4 * * 0' UTC" in done.stdout
    assert [s.schedule.cron for s in client.read_deployment_by_name("adapt-model/adapting").schedules] == ["0 4 * * 0"]


def test_prefect_yaml_deploys(server, client, tmp_path):
    root = Path(__file__).parent.parent
    subprocess.run([PREFECT, "work-pool", "create", "local", "--type", "process"], env=server, check=False, capture_output=True)
    done = subprocess.run([PREFECT, "--no-prompt", "deploy", "--all"], cwd=root, env=server, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    deployment = client.read_deployment_by_name("segment-archive/demo-archive")
    assert [schedule.schedule.cron for schedule in deployment.schedules] == ["0 3 * * *"]
    from rs_pipeline.archive_config import load_archive

    demo = load_archive(root / "configs" / "archives" / "demo.yaml")
    assert load_archive(deployment.parameters["archive"]).run == demo.run


def test_a_server_that_is_not_there_is_one_clear_error(archive, tmp_path):
    (tmp_path / "archive.yaml").write_text(json.dumps(archive))
    deploy = ["deploy", "--archive", "archive.yaml", "--cron", "0 3 * * *"]
    gone, nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, dict[str, str]()
    for command, url in ((deploy, gone), (deploy, nowhere), (["archive", "run", "archive.yaml", "--flow"], gone)):
        environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {"PREFECT_HOME": str(tmp_path / "home")} | url
        ran = subprocess.run([*RS_SEG, *command], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=120)
        assert ran.returncode == ClusterError.exit_code
        assert ran.stderr.splitlines()[-1].startswith("rs-seg: expected a Prefect server")
        assert url.get("PREFECT_API_URL", "no PREFECT_API_URL") in ran.stderr


@pytest.mark.parametrize(("cron", "zone"), [("soon", "UTC"), ("0 3 * * *", "Mars/Olympus")])
def test_a_schedule_that_is_none_is_refused(server, archive, cron, zone):
    from rs_flows.commands import deploy

    from rs_pipeline.archive_config import load_archive

    with pytest.raises(UsageError, match="cron"):
        deploy(load_archive(archive), cron=cron, timezone=zone, pool="tests")


def test_a_plain_run_does_not_know_prefect(make_scene, tmp_path):
    command = [
        "run",
        "--source",
        str(make_scene()),
        "--classes",
        "road",
        "--model",
        "fake_segmenter:pointwise",
        "--out",
        str(tmp_path / "run"),
    ]
    code = (
        "import sys; from rs_pipeline.cli import app; from typer.testing import CliRunner\n"
        f"r = CliRunner().invoke(app, {command!r}); assert r.exit_code == 0, r.output\n"
        "sys.exit('prefect' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line_runs_a_flow_and_tells_as_ever(server, make_scene, tmp_path):
    flags = ["--source", str(make_scene()), "--classes", "road,water", "--model", "fake_segmenter:pointwise", "--out", "run", "--json"]
    ran = subprocess.run([*RS_SEG, "run", *flags, "--flow"], cwd=tmp_path, env=server, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["status"] == "complete"
    assert "Finished in state Completed()" in ran.stderr
    assert (tmp_path / "run" / "layers.gpkg").is_file()
    ran = subprocess.run(
        [*RS_SEG, "run", *flags, "--flow", "--per-scene"], cwd=tmp_path, env=server, check=False, capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert "rs-seg archive run CONFIG --flow" in ran.stderr
