"""From a batch of frames to raw outputs (engines) and from raw outputs to detections (heads)."""
