"""The demo: a job whose memory climbs, run through the whole stack as a person would, told as it happens."""
