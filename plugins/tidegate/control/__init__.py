"""Between policies and doors: takes in what happened to a slot, and watches a run's pods; Airflow is not known here."""
