"""The real agent while strangers attack its status socket and its page. What that costs the loop is for `bench fuzz`."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.agent import Agent, source, write_config
from tests.unit.page.test_address import free_port

pytestmark = [pytest.mark.slow, pytest.mark.alone]
_ATTACK_S = 20
_PLACES = 8 + 16


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settled(count, bound, timeout_s=15):
    deadline = time.monotonic() + timeout_s
    while (found := count()) > bound and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def test_the_agent_works_on_and_answers_while_it_is_attacked(tmp_path, fresh_state, carphone):
    port = free_port()
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1&pace=realtime"), f'[status]\nlisten = "127.0.0.1:{port}"\n', state=fresh_state)
    with Agent(config) as agent:
        agent.until(lambda s: s.found.get("face", 0) > 30)
        pid = agent.process.pid
        before = agent.snapshot()
        threads_before, files_before, resident_before = threads(pid), files(pid), resident(pid)
        attack = subprocess.Popen([sys.executable, "-m", "bench.attack", str(_ATTACK_S), str(agent.socket), "127.0.0.1", str(port)],
                                  stdout=subprocess.PIPE, text=True)
        most_threads = most_files = 0
        answers = []
        while attack.poll() is None:
            most_threads, most_files = max(most_threads, threads(pid)), max(most_files, files(pid))
            answers.append(agent.snapshot())
            time.sleep(0.1)
        made = int(attack.communicate()[0])
        assert attack.returncode == 0
        assert made > 1000
        assert sum(answer is not None for answer in answers) >= 0.9 * len(answers) > 10, "whoever may ask is answered meanwhile"
        after = agent.until(lambda s: True)
        assert after.sources[0].processed - before.sources[0].processed > _ATTACK_S * 5, "frames go on"
        assert after.run_id == before.run_id
        assert all(age < 5 for age in after.heartbeats.values())
        # Two servers' places, a few in the door, and what the loop itself may open.
        assert most_threads <= threads_before + _PLACES
        assert most_files <= files_before + _PLACES + 8
        assert settled(lambda: threads(pid), threads_before) <= threads_before
        assert settled(lambda: files(pid), files_before + 2) <= files_before + 2
        assert resident(pid) - resident_before < 30e6
        token = (agent.socket.parent / "page-token").read_text()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/now.json", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200
        assert agent.stop() == 0
        said = agent.said()
    assert "Traceback" not in said
    assert "defect" not in said
    assert 1 <= said.count("wrong token") <= 3, "told, but not once for each"
    assert token not in said
