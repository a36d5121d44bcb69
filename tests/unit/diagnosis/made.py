"""Made facts of what is around an agent: a good service on a Jetson, which tests break one thing of."""

from msgspec.structs import replace

from agent.diagnosis.around import (
    Around,
    Certificate,
    Disk,
    EngineStore,
    Jtop,
    Limits,
    Sensors,
    Source,
    StoredEngine,
    Upstream,
)
from agent.diagnosis.checks import checks
from agent.diagnosis.service_facts import Account, Needed, Node, Running, Sandbox, Secret, Service
from agent.unit import Unit
from tests.unit.diagnosis.test_checks import JETPACK6

NOW = 1_780_000_000.0
DAY = 86400.0
DOOR = Source(name="door", url="v4l2:///dev/video0", asked="agent", state="live", width=1280, height=720)
YARD = Source(name="yard", url="rtsp://cam/1", width=640, height=480, first_frame_s=0.4)
UPSTREAM = Upstream(url="https://fleet.example/events", host="fleet.example", addresses=("192.0.2.1",), status=204, kind="ack", tls="TLSv1.3",
                    token=True, took_s=0.1, certificates=(Certificate(role="server", ends=NOW + 90 * DAY),))
ENGINE = StoredEngine(recipe="centerface", form="int8", identity="a" * 16, bytes=3_000_000, whole=True, serves=True)
AROUND = Around(
    at=NOW, clock="synchronised", sources=(DOOR, YARD), disk=Disk(written=8 << 20, rate=80e6, commit_s=0.004), upstream=UPSTREAM,
    store=EngineStore(engines=(ENGINE,)), limits=Limits(watts=True, celsius=True),
    sensors=Sensors(name="jtop 7.2", watts=5.1, measures="VDD_IN", celsius=48.0, hottest="tj", memory=True),
    jtop=Jtop(socket=True, socket_group="jtop", unit="active (running)", package="4.3.2", user="root", trouble="", agent_may=True))
UNIT = Unit(name="vedette.service", load_state="loaded", active_state="active", sub_state="running", unit_file_state="enabled", result="success",
            exec_code=0, exec_status=0, main_pid=77, restarts=0, since_s=7200.0, status_text="2 of 2 sources live", need_reload=False, memory=1,
            file="/etc/systemd/system/vedette.service", drop_ins=("/etc/systemd/system/vedette.service.d/50-box.conf",))
NODES = (Node(path="/dev/nvhost-ctrl-gpu", driver="nvhost", group="video", access="yes"), Node(path="/dev/nvmap", driver="misc", group="video", access="yes"),
         Node(path="/dev/video0", driver="video4linux", group="video", access="yes"))
SANDBOX = Sandbox(device_policy="closed", devices=(("char-video4linux", "rw"), ("char-nvhost*", "rw"), ("/dev/nvmap", "rwm")), protect_home="yes",
                  private_tmp=True, credentials=("token",))
SERVICE = Service(
    systemd=True, unit=UNIT, version="0.6.0", sandbox=SANDBOX, user="vedette", nodes=NODES, runtime_owner="vedette",
    running=Running(socket="/run/vedette/status.sock", answers="answers", version="0.6.0", state="running", pid=77, alive=True),
    account=Account(name="vedette", uid=990, gids=(44, 990), groups=("vedette", "video")),
    files=(Needed(key="configuration", path="/etc/vedette/config.toml", access="yes"), Needed(key="device.state_dir", path="/var/lib/vedette", access="yes", write=True),
           Needed(key="source.door.url", path="/dev/video0", access="yes", write=True)),
    secrets=(Secret(key="upstream.token", name="token", loaded=True, file="/etc/vedette/credentials/token", there=True),))
FACTS = replace(JETPACK6, around=AROUND, service=SERVICE)


def around(**changes):
    """The good box with something else around it."""
    return replace(FACTS, around=replace(AROUND, **changes))


def service(**changes):
    """The good box with another service."""
    return replace(FACTS, service=replace(SERVICE, **changes))


def rows(facts):
    return {row.name: row for section in checks(facts) for row in section.rows}


def told(facts, name):
    """Verdict, whether it is fatal, and all its words."""
    row = rows(facts)[name]
    return row.verdict, row.fatal, f"{row.found} | {row.remedy}"
