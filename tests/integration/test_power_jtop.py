"""The adapter of jtop against the real service of jetson-stats, over the made /sys of an Orin NX and an AGX Orin."""

import pytest

from tests.helpers import jtop_lab

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(60), pytest.mark.skipif(bool(jtop_lab.missing()), reason=jtop_lab.missing() or "-")]


@pytest.fixture(autouse=True)
def _with_the_package():
    if jtop_lab.venv() is None:
        pytest.skip(f"needs the wheel of jetson-stats {jtop_lab.VERSION} from a package index")


@pytest.fixture
def play(tmp_path):
    def run(scene, board="nx", **options):
        return jtop_lab.play(scene, jtop_lab.tree(tmp_path / board, board), tmp_path, **options)

    return run


def agree(jtop, sysfs):
    assert jtop["watts"] == pytest.approx(sysfs["watts"], rel=0.005)
    assert jtop["measures"] == sysfs["measures"]
    assert jtop["rails"] == pytest.approx(sysfs["rails"], rel=0.005)
    # jtop cuts a zone's name at its first dash: cpu for cpu-thermal.
    assert jtop["zones"] == pytest.approx({name.split("-")[0]: value for name, value in sysfs["zones"].items()}, abs=0.1)
    assert jtop["celsius"] == pytest.approx(sysfs["celsius"], abs=0.1)
    assert jtop["hottest"] == sysfs["hottest"].split("-")[0]
    assert jtop["gpu_load"] == pytest.approx(sysfs["gpu_load"], abs=0.001)
    assert jtop["trouble"] == sysfs["trouble"] == ""


@pytest.mark.parametrize(("board", "watts", "after", "measures", "zones"), [
    ("nx", 7.599, 20.320, "VDD_IN", 4), ("agx", 10.453, 82.045, "sum of 4 rails", 4),
])
def test_jtop_and_sysfs_say_the_same_of_a_board_and_see_a_change_within_a_second(play, board, watts, after, measures, zones):
    said = play("read", board)
    assert said["name"] == "jtop 7.2.2"
    assert said["jtop"]["watts"] == pytest.approx(watts, rel=0.005)
    assert said["jtop"]["measures"] == measures
    assert len(said["jtop"]["zones"]) == zones, "the offline zone is left out"
    assert said["jtop"]["gpu_load"] == pytest.approx(0.637)
    assert said["jtop_after"]["watts"] == pytest.approx(after, rel=0.005)
    assert said["seen_s"] < 1.0
    assert 0 <= said["late_s"] < 1.0
    agree(said["jtop"], said["sysfs"])
    agree(said["jtop_after"], said["sysfs_after"])


def test_a_killed_service_is_unknown_and_comes_back_by_itself(play):
    said = play("killed")
    assert said["lost_s"] < 3.0
    assert "systemctl start jtop" in said["still"]["trouble"]
    assert said["still"]["watts"] is None
    assert said["back_s"] < 15.0


def test_an_old_sample_handed_on_again_is_not_taken_for_a_new_one(play):
    said = play("halved")
    assert 1.0 < said["lost_s"] < 3.0
    assert said["still"]["watts"] is None
    assert said["still"]["trouble"].startswith("jtop gave nothing for")
    assert said["back_s"] < 3.0


def test_a_frozen_service_is_unknown_and_holds_up_nobody(play):
    said = play("frozen")
    assert 1.0 < said["lost_s"] < 3.0
    assert said["lost"]["trouble"].startswith("jtop gave nothing for")
    assert said["later"]["watts"] is None
    assert said["left"] == 0
    assert said["left_s"] < 5.0, "a process that leaves must not wait for a frozen service"
    assert said["back_s"] < 5.0


def test_another_release_of_the_service_is_no_reading_and_says_which_package_to_install(play):
    said = play("mismatch")
    assert said["watts"] is said["celsius"] is said["gpu_load"] is None
    assert "version 7.2.2" in said["trouble"]
    assert "jetson-stats is 4.3.2" in said["trouble"]
    assert "pip install 'jetson-stats==7.2.*'" in said["trouble"]


def test_a_stranger_to_the_group_is_told_how_to_join_it(play):
    said = play("stranger")
    assert said["watts"] is None
    assert "sudo usermod -aG jtop nobody" in said["trouble"]


def test_the_client_leaves_no_trace_in_the_process(play):
    said = play("traces")
    assert said["method"] is None, "multiprocessing's start method is not chosen for us"
    assert said["children"] == []
    assert said["same"], "logging and signals as before"
    assert len(said["threads"]) == 2, said["threads"]
    assert said["after"] == ["MainThread"]


def test_a_power_mode_is_set_remembered_and_put_back(play):
    said = play("modes", nvpmodel=True)
    assert said["set"] == ["power mode 25W -> 15W"]
    assert said["tool"] == "0"
    assert said["state"]["nvpmodel"] == "25W"
    assert said["again"] == []
    assert said["kept"] == said["state"], "a start after a crash keeps the former mode"
    assert said["back"] == ["power mode 15W -> 25W"]
    assert said["tool_after"] == "1"
    assert not said["left"]
    unknown, reboot, clocks = said["errors"]
    assert "'40W'" in unknown
    assert "15W, 25W, MAXN_SUPER" in unknown
    assert "reboot" in reboot
    assert "nvpmodel -m 2" in reboot
    assert "no jetson_clocks" in clocks
    assert not said["touched"], "what cannot be set changes nothing"


def test_it_costs_at_most_half_a_percent_of_a_core(play):
    assert play("cost")["percent"] < 0.5
