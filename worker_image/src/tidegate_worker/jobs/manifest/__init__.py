"""Jobs named by a manifest of URIs, shared by workers through a ledger in SQL, answered into part files."""
