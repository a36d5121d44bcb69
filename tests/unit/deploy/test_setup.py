"""vedette-setup on made boxes: groups, memory limits, devices, credentials."""

import configparser

import pytest

DROP_INS = "etc/systemd/system/{}.service.d/50-box.conf"


@pytest.fixture
def box(box):
    for name in ("users", "groups", "member"):
        with (box.trial / name).open("a") as file:
            file.write("vedette\n")
    (box.root / "etc/vedette/credentials").mkdir(parents=True)
    return box


def written(box, unit="vedette"):
    return (box.root / DROP_INS.format(unit)).read_text().splitlines()


def test_memory_limits_come_from_the_memory_there_is(box):
    box.setup()
    assert "# Of the 7812 MiB of this box (MemTotal of /proc/meminfo): 60 % and 75 %." in written(box)
    assert {"MemoryHigh=4687M", "MemoryMax=5859M"} <= set(written(box))
    assert not any("Memory" in line for line in written(box, "vedette-tune"))


def test_groups_that_exist_are_joined_and_no_others(box):
    box.setup()
    assert box.said("member").split() == ["vedette", "video", "render"]
    with (box.trial / "groups").open("a") as file:
        file.write("jtop\n")
    assert "joins the group jtop" in box.setup()


def test_the_nodes_of_a_jetson_are_opened_for_both_services(box):
    for name in ("nvmap", "nvhost-gpu", "nvgpu/igpu0/as", "dri/renderD128", "sda", "mem"):
        (box.root / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (box.root / "dev" / name).touch()
    box.setup()
    for unit in ("vedette", "vedette-tune"):
        assert {line for line in written(box, unit) if line.startswith("DeviceAllow")} == {
            f"DeviceAllow=/dev/{name} rw" for name in ("nvmap", "nvhost-gpu", "nvgpu/igpu0/as", "dri/renderD128")}


def test_the_socket_of_csi_cameras_is_reached_where_there_is_one(box):
    box.setup()
    assert not any("argus" in line for line in written(box))
    unit = box.root / "etc/systemd/system/nvargus-daemon.service"
    unit.write_text("[Service]\n")
    box.setup()
    assert {"BindReadOnlyPaths=/tmp:/run/vedette-host-tmp", "ExecStartPre=-/bin/ln -sfn /run/vedette-host-tmp/argus_socket /tmp/argus_socket"} <= set(written(box))
    assert not any("argus" in line for line in written(box, "vedette-tune"))


def test_credentials_are_handed_to_both_services_and_guarded(box):
    for name in ("door", "upstream.token", "not a name", "backup~"):
        (box.root / "etc/vedette/credentials" / name).write_text("secret")
    said = box.setup()
    for unit in ("vedette", "vedette-tune"):
        assert [line for line in written(box, unit) if line.startswith("Load")] == [
            "LoadCredential=door:/etc/vedette/credentials/door", "LoadCredential=upstream.token:/etc/vedette/credentials/upstream.token"]
        assert not any("secret" in line for line in written(box, unit))
    assert "credential 'not a name' is left out" in said
    assert (box.root / "etc/vedette/credentials/door").stat().st_mode & 0o777 == 0o600


def test_what_a_credential_that_is_a_link_points_to_is_left_alone(box):
    """Those of certbot are links, and a web server may have to read them too."""
    target = box.root / "etc/fullchain.pem"
    target.write_text("certificate")
    target.chmod(0o644)
    (box.root / "etc/vedette/credentials/door").symlink_to(target)
    assert "door is a link" in box.setup()
    assert target.stat().st_mode & 0o777 == 0o644
    assert "chown" not in box.said("acts")
    assert "LoadCredential=door:/etc/vedette/credentials/door" in written(box)


def test_a_credential_taken_away_does_not_keep_the_services_from_starting(box):
    """systemd.exec(5): SetCredential of the same name is the default where the file is missing. It must not be empty there; to the agent a blank line is."""
    (box.root / "etc/vedette/credentials/door").write_text("secret")
    box.setup()
    for unit in ("vedette", "vedette-tune"):
        lines = written(box, unit)
        assert lines[lines.index("LoadCredential=door:/etc/vedette/credentials/door") + 1] == r"SetCredential=door:\n"


def test_a_credential_taken_away_is_forgotten(box):
    file = box.root / "etc/vedette/credentials/door"
    file.write_text("secret")
    box.setup()
    file.unlink()
    assert "systemctl restart vedette" in box.setup()
    assert not any("door" in line for line in written(box))


def test_a_second_run_changes_nothing(box):
    assert "daemon-reload" in box.setup() + box.said("acts")
    before = box.tree()
    assert "nothing to change" in box.setup()
    assert box.tree() == before
    assert "daemon-reload" not in box.said("acts")


def test_a_dry_run_prints_and_writes_nothing(box):
    (box.root / "etc/vedette/credentials/door").write_text("secret")
    before = box.tree()
    said = box.setup("--dry-run")
    assert box.tree() == before
    assert "usermod" not in box.said("acts")
    for part in ("would add the user vedette to the group video", "MemoryMax=5859M", "LoadCredential=door:"):
        assert part in said


def test_the_drop_ins_hold_one_section_and_an_operators_own_is_read_later(box):
    box.setup()
    for unit in ("vedette", "vedette-tune"):
        read = configparser.ConfigParser(strict=False)
        read.read_string("\n".join(written(box, unit)))
        assert read.sections() == ["Service"]
    names = ["50-box.conf", "override.conf", "60-mine.conf"]
    assert sorted(names)[0] == "50-box.conf"


@pytest.mark.parametrize(("faults", "users", "code", "message"), [
    (["not root"], "vedette\n", 1, "only root may"), ([], "root\n", 1, "there is no user vedette"), (["usermod"], "vedette\n", 1, "usermod could not add")])
def test_what_can_go_wrong(box, faults, users, code, message):
    box.go_wrong(*faults)
    (box.trial / "users").write_text(users)
    assert message in box.setup(code=code)


def test_wrong_usage(box):
    assert "unknown argument --colour" in box.setup("--colour", code=64)
