"""What the machine is, read from made trees and scripted tools; a real Jetson has not been seen by these tests."""

import os
import time
from pathlib import Path

import pytest

from agent import machine

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n"
ARM = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes asimdrdm lrcpc dcpop asimddp uscat ilrcpc flagm
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

processor\t: 1
CPU implementer\t: 0x99
CPU part\t: 0x999
"""
INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R)   Gold 6338 CPU @ 2.00GHz
flags\t\t: fpu vme avx2 avx512f avx512_vnni avx5 sse
"""


def put(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def tool(folder, script):
    put(folder, "nvpmodel", f"#!/bin/sh\n{script}\n")
    (folder / "nvpmodel").chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(("text", "expected"), [
    (RELEASE, "36.4.3"),
    ("# R38 (release), REVISION: 2, GCID: 1", "38.2"),
    ("# R35 (release), REVISION: 6.5, x", "35.6.5"),
    ("R36", None), ("", None), (b"\xff\xfe\0", None),
])
def test_the_release_of_jetson_linux_is_read_from_its_file(tmp_path, text, expected):
    put(tmp_path, "etc/nv_tegra_release", text)
    assert machine.l4t(tmp_path) == expected


@pytest.mark.parametrize(("release", "expected"), [
    ("35.2.1", "5.1.x"), ("35.6.5", "5.1.x"), ("36.3", "6.0"), ("36.3.0", "6.0"), ("36.4", "6.1"), ("36.4.0", "6.1"), ("36.4.3", "6.2"),
    ("36.4.4", "6.2.1"), ("36.4.7", "6.2.x"), ("36.5.2", "6.2.3"), ("38.2", "7.0"), ("38.2.1", "7.0"), ("38.4", "7.1"), ("39.2.0", "7.2"),
    ("39.2.1", "7.2.1"), ("39.2.2", "7.2.2"),
    ("35.1", None), ("36.2", None), ("36.6", None), ("37.1", None), ("39.3", None), ("40.0", None), ("", None), ("x.y", None), (None, None),
])
def test_a_release_belongs_to_one_jetpack_or_to_none_that_is_known(release, expected):
    assert machine.jetpack(release) == expected


def test_the_board_comes_from_the_device_tree(tmp_path):
    assert machine.board(tmp_path) is None
    assert not machine.is_jetson(tmp_path)
    put(tmp_path, "proc/device-tree/model", b"NVIDIA Jetson Orin Nano Developer Kit\0")
    assert machine.board(tmp_path) == "NVIDIA Jetson Orin Nano Developer Kit"
    assert machine.is_jetson(tmp_path), "a container has the device tree and no /etc/nv_tegra_release"
    put(tmp_path, "proc/device-tree/model", b"Raspberry Pi 5\0")
    assert not machine.is_jetson(tmp_path)
    put(tmp_path, "etc/nv_tegra_release", RELEASE)
    assert machine.is_jetson(tmp_path)


def test_an_arm_processor_has_the_name_that_its_first_core_has(tmp_path):
    put(tmp_path, "proc/cpuinfo", ARM)
    assert machine.cpu_model(tmp_path) == machine.CpuModel(name="implementer 0x41 part 0xd42", flags=("asimddp",))
    assert str(machine.cpu_model(tmp_path)) == "implementer 0x41 part 0xd42 asimddp"


def test_an_intel_processor_tells_the_instruction_sets_that_choose_kernels(tmp_path):
    put(tmp_path, "proc/cpuinfo", INTEL)
    assert machine.cpu_model(tmp_path) == machine.CpuModel(
        name="Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", flags=("avx2", "avx512_vnni", "avx512f"))


def test_an_unknown_processor_is_none(tmp_path):
    assert machine.cpu_model(tmp_path) is None
    put(tmp_path, "proc/cpuinfo", "processor: 0\nCPU part: 0x1\n")
    assert machine.cpu_model(tmp_path) is None


def test_memory_is_given_in_bytes_and_only_when_both_figures_are_there(tmp_path):
    assert machine.memory(tmp_path) is None
    put(tmp_path, "proc/meminfo", "MemTotal:        7802316 kB\nMemFree:          500000 kB\n")
    assert machine.memory(tmp_path) is None
    put(tmp_path, "proc/meminfo", "MemTotal:        7802316 kB\nMemFree:          500000 kB\nMemAvailable:    5120000 kB\n")
    assert machine.memory(tmp_path) == machine.Memory(total=7802316 * 1024, available=5120000 * 1024)


def test_this_machine_has_a_memory_and_a_processor():
    memory = machine.memory()
    assert memory is not None
    assert 0 < memory.available <= memory.total
    assert memory.total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") or memory.total > 2**28
    assert machine.cpu_model() is not None


@pytest.mark.parametrize(("script", "expected"), [
    ('echo "NV Fan Mode:quiet"; echo "NV Power Mode: MAXN_SUPER"; echo 2', machine.PowerMode(name="MAXN_SUPER", number=2)),
    ('[ "$1" = -q ] && echo "NV Power Mode: MODE_15W" && echo 0', machine.PowerMode(name="MODE_15W", number=0)),
    ('echo "NV Power Mode: 25W"', machine.PowerMode(name="25W", number=None)),
    ('echo "NV Power Mode:"; echo 0', None),
    ('echo "NV Power Mode: 25W"; exit 3', None),
    ("echo no", None),
])
def test_the_power_mode_is_what_nvpmodel_says(tmp_path, script, expected):
    assert machine.power_mode(tool(tmp_path, script)) == expected


def test_a_power_mode_names_its_id():
    assert str(machine.PowerMode(name="25W", number=1)) == "25W (1)"
    assert str(machine.PowerMode(name="25W", number=None)) == "25W"


def test_no_nvpmodel_is_no_power_mode(tmp_path):
    assert machine.power_mode(str(tmp_path)) is None


def test_a_tool_that_hangs_is_given_up_with_all_it_started(tmp_path):
    mark = tmp_path / "late"
    started = time.monotonic()
    assert machine.power_mode(tool(tmp_path, f'(sleep 1.5; touch {mark}) & echo "NV Power Mode: 25W"; sleep 60'), timeout_s=0.3) is None
    assert time.monotonic() - started < 5
    time.sleep(1.7)
    assert not mark.exists(), "its own child lives on"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can become another user")
def test_a_command_runs_as_another_user_with_nothing_of_roots():
    user = machine.User(uid=65534, gid=65533, groups=(65533, 64321), name="somebody", home="/nowhere")
    said = ("id -u; id -g; id -G; echo $HOME $USER $LOGNAME; "
            'grep -E "^Cap(Eff|Prm|Inh|Amb)" /proc/self/status | tr -d "0\\t\\n"; cat /etc/shadow')
    reply = machine.ask(["sh", "-c", said], 5, user)
    assert reply.out.splitlines()[:4] == ["65534", "65533", "65533 64321", "/nowhere somebody somebody"]
    assert reply.out.splitlines()[4] == "CapInh:CapPrm:CapEff:CapAmb:"
    assert "Permission denied" in reply.err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can become another user")
def test_another_users_command_that_hangs_is_ended():
    user = machine.User(uid=65534, gid=65534, groups=(65534,), name="nobody", home="/")
    assert machine.ask(["sh", "-c", "echo a; sleep 60"], 0.5, user) == machine.Reply(code=None, out="a\n", err="")


def test_a_command_that_says_too_much_is_cut_short(monkeypatch):
    monkeypatch.setattr(machine, "_MOST_SAID", 10)
    assert machine.ask(["sh", "-c", "echo 0123456789abc"], 5).out == "0123456789"


def test_a_reply_has_the_exit_code_and_both_outputs():
    assert machine.ask(["sh", "-c", "echo a; echo b >&2; exit 3"], 5) == machine.Reply(code=3, out="a\n", err="b\n")
    assert machine.ask(["sh", "-c", "kill -9 $$"], 5) == machine.Reply(code=-9, out="", err="")
    assert machine.ask([str(Path("/nowhere/tool"))], 5) is None
