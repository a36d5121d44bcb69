"""A small model's recipe, what is prepared from it, plans for it, and figures that a trial could have given."""

from pathlib import Path

import msgspec
import numpy as np

from agent.building.gate import Agreement, Measured, Speed
from agent.building.identity import Parts, Platform
from agent.building.prepare import Prepared
from agent.building.recipe import Recipe, find_recipe
from agent.plan import Plan

HERE = Platform(runtime="onnxruntime 1.23.2", provider="CPUExecutionProvider", cpu="A CPU avx2", threads=1)
ORIN = Platform(runtime="tensorrt 10.3.0.26", gpu="Orin (nvgpu)", sm="8.7", sm_count=16, cuda="12.6", driver="540.4.0",
                l4t="36.4.3", power_mode="MAXN (0)")

RECIPE = """
schema = 1
name = "{name}"
task = "detect"
summary = "{name}"
licence = "none"
[model]
source = "{model}"
[input]
size = [64, 64]
colour = "rgb"
scale = 0.00392156862745098
[head]
score = 0.1
classes = ["a", "b"]
"""


def parts(**changes) -> Parts:
    """Parts of the recipe ``small`` on a CPU; platform=… replaces it."""
    return msgspec.structs.replace(
        Parts(recipe="small", recipe_sha256="a" * 16, model_sha256="b" * 64, prepared="c" * 16, conversion=1, platform=HERE), **changes)


def write_recipe(folder: Path, name: str = "small", more: str = "", model: Path | None = None) -> Recipe:
    """Write folder/recipes/NAME/recipe.toml, and a small detector beside it unless there is a model already."""
    place = folder / "recipes" / name
    place.mkdir(parents=True, exist_ok=True)
    if model is None:
        model = place / "model.onnx"
        model.write_bytes(detector())
    (place / "recipe.toml").write_text(RECIPE.format(name=name, model=f"file:{model}") + more)
    return find_recipe(name, [folder / "recipes"])


def detector() -> bytes:
    """Three convolutions with the outputs of a YOLOv8 of two classes; finds something on nearly every picture."""
    from onnx import helper

    from tests.helpers.onnx_models import model, weights

    def conv(number, data, kernel, stride, pad):
        return helper.make_node("Conv", [data, f"w{number}", f"b{number}"], [f"c{number}"], strides=[stride] * 2, kernel_shape=[kernel] * 2,
                                pads=[pad] * 4)

    nodes = [conv(1, "image", 3, 2, 1), helper.make_node("Relu", ["c1"], ["r1"]), conv(2, "r1", 3, 2, 1), helper.make_node("Relu", ["c2"], ["r2"]),
             conv(3, "r2", 2, 2, 0), helper.make_node("Reshape", ["c3", "shape"], ["columns"])]
    reach = np.array([12, 12, 3, 3, 0.2, 0.2], np.float32)[:, None, None, None]
    held = {"w1": weights(8, 3, 3, 3), "b1": weights(8, seed=1), "w2": weights(8, 8, 3, 3, seed=2), "b2": weights(8, seed=3),
            "w3": weights(6, 8, 2, 2, seed=4) / 4 * reach, "b3": np.array([32, 32, 14, 14, 0.2, 0.2], np.float32),
            "shape": np.array([0, 6, -1])}
    return model(nodes, held, ["columns"]).SerializeToString()


def plan(recipe: Recipe, **changes) -> Plan:
    """A plan for a model that nobody prepared: for tests whose children are scripted."""
    prepared = Prepared(path=Path("/nowhere/small.onnx"), identity="c" * 16, model_sha256="b" * 64, height=64, width=64,
                        dynamic_batch=True, folded=True, max_difference=1e-6, note="")
    return Plan(**{"recipe": recipe, "prepared": prepared, "platform": HERE, "runtime": "onnxruntime", "threads": 1, **changes})


def speed(p50_ms: float) -> Speed:
    return Speed(runs=100, p50_ms=p50_ms, p99_ms=p50_ms * 1.1, mean_ms=p50_ms)


def measured(p50_ms: float = 10.0, *, baseline_ms: float | None = None, share: float = 1.0, boxes: int = 100, difference: float = 0.001,
             kind: str = "held-out", baseline_form=None, resident: int | None = 1_000_000) -> Measured:
    """Figures of an engine that finds ``share`` of the reference's boxes."""
    found = round(boxes * share)
    return Measured(
        agreement=Agreement(frames=12, reference_boxes=boxes, matched=found, extra=0, class_changed=0, mean_iou=0.9 if found else None,
                            score_drift_mean=0.001 if found else None, score_drift_max=0.002 if found else None, output_difference=difference),
        speed=speed(p50_ms), baseline=None if baseline_ms is None else speed(baseline_ms), baseline_form=baseline_form,
        resident_bytes=resident, frames_kind=kind)


def pictures(folder: Path, count: int = 60, side: int = 64) -> Path:
    """Fill a folder with PNG files of shapes and gradients, no two alike."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    for number in range(count):
        picture = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.rectangle(picture, *(tuple(int(x) for x in rng.integers(0, side, 2)) for _ in range(2)), [int(x) for x in rng.integers(0, 256, 3)], -1)
        cv2.imwrite(str(folder / f"{number:04}.png"), picture)
    return folder
