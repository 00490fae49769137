"""What Airflow's own pages show of a run beyond its tasks."""
