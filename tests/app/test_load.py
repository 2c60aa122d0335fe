"""A short version of benchmarks/load.py: 100 clients at once, and the memory of a free machine."""

import asyncio
import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import big_bundle
import pytest
from chrome import ROOT, served

from benchmarks import load

if importlib.util.find_spec("gradio") is None:
    pytest.skip("gradio is not installed; pip install -e '.[app]'", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return big_bundle.make(tmp_path_factory.mktemp("load") / "bundle", 20_000, dimension=256)


@pytest.fixture(scope="module")
def url(folder):
    with served(folder, imported=()) as address:
        yield address


def test_it_starts_within_15_seconds_of_cpu_and_without_torch(url):
    assert load.cpu(url.pid) < 15
    assert "libtorch" not in Path(f"/proc/{url.pid}/maps").read_text()


def test_100_clients_at_once_get_right_answers_or_a_clean_refusal_within_600_mb(folder, url):
    with ThreadPoolExecutor(1) as pool:  # a thread of its own: a browser test may have left a loop in this one
        load_result = pool.submit(asyncio.run, load.run(url, url.pid, load.searches(folder), 100, 8)).result()
    assert set(load_result.outcomes) <= {"right", "refused"}, load_result
    assert load_result.outcomes["right"] >= 20, load_result
    assert max(load_result.memory) < 600, load_result


@pytest.mark.slow
def test_of_many_visitors_the_last_are_kept(folder):
    """Gradio keeps the state of 10,000 by default, which is more than a gigabyte."""
    code = f"""
from gcl_toolkit.app.app import launch, open_service
from gcl_toolkit.app.limits import MAX_SESSIONS
_, _, page = launch(open_service({str(folder)!r}), wait=False)
for visitor in range(MAX_SESSIONS + 9):
    page.state_holder[str(visitor)]
print(MAX_SESSIONS - len(page.state_holder.session_data))
page.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "\n0\n" in done.stdout, done.stderr


def test_an_idle_app_seldom_looks_for_calls(folder):
    """Gradio's default on Linux is 1,000 times a second, which takes 7 % of a core."""
    code = f"""
from gcl_toolkit.app.app import launch, open_service
_, _, page = launch(open_service({str(folder)!r}), wait=False)
print(page._queue.sleep_when_free)
page.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "\n0.05\n" in done.stdout, done.stderr
