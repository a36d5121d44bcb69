"""From cameras, streams and files to the newest frame of each."""
