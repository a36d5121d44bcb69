"""vedette: a resident agent that watches cameras on an NVIDIA Jetson and reports what it finds."""

__version__ = "0.1.0"
