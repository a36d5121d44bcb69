"""vedette: a resident agent that watches cameras on an NVIDIA Jetson and reports what it finds."""

import os

__version__ = "0.1.0"

# ONNX Runtime 1.31 keeps an id of the device and a database in ~/.cache/Microsoft, and knows an address to send to.
# What this agent sees and does is nobody's but its owner's. Set here, before anything can import that module.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
