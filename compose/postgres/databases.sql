-- Beside Airflow's own: the runs' memory, and the ledger of manifest jobs.
CREATE DATABASE runs;
CREATE DATABASE ledger;
