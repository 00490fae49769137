"""Jobs of an Antenna server, pulled and answered over its REST API."""
