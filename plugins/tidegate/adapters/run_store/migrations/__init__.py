"""How the run store's schema grew; Alembic runs these in order."""
