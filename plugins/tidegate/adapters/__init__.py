"""The doors to the outside: one file a neighbour (cluster, metrics, database, forecast); no decisions."""
