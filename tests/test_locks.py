"""Who holds what, and for how long."""

import subprocess
import sys
import threading
import time

import pytest

from rs_pipeline.locks import hold, is_held


def test_one_alone_or_many_together(tmp_path):
    path = tmp_path / "lock"
    with hold(path, shared=True), hold(path, shared=True), pytest.raises(BlockingIOError), hold(path, patience_s=0):
        pass
    with hold(path), pytest.raises(BlockingIOError), hold(path, shared=True, patience_s=0):
        pass
    with hold(path):
        pass


def test_looking_makes_nothing_and_sees_both_kinds(tmp_path):
    path = tmp_path / "lock"
    assert not is_held(path)
    assert not path.exists()
    for shared in (True, False):
        with hold(path, shared=shared):
            assert is_held(path)
        assert not is_held(path)
    with hold(tmp_path):
        assert is_held(tmp_path), "folders too"


def test_who_only_looks_refuses_nobody(tmp_path):
    path, looked = tmp_path / "lock", threading.Event()

    def look():
        with hold(path):
            looked.set()
            time.sleep(0.1)

    looker = threading.Thread(target=look)
    looker.start()
    looked.wait()
    with hold(path):
        looker.join()


def test_a_lock_that_was_removed_meanwhile_is_not_the_lock(tmp_path):
    path, taken = tmp_path / "lock", threading.Event()

    def remove():
        with hold(path):
            taken.set()
            time.sleep(0.1)
            path.unlink()

    remover = threading.Thread(target=remove)
    remover.start()
    taken.wait()
    with hold(path):
        assert is_held(path)
        remover.join()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = str(tmp_path / "lock")
    code = f"from pathlib import Path; from rs_pipeline.locks import hold\nwith hold(Path({path!r})): print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert is_held(tmp_path / "lock")
        process.kill()
    assert not is_held(tmp_path / "lock")
