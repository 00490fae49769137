"""Who may log in, with which token; passwords are kept as scrypt hashes.

The administrator's token lies in a file that only its owner can read; it opens the API and `/demo/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from tidegate.core.errors import FixConfig
from tidegate_local.jobserver.database import Database

ADMIN_EMAIL = "admin@demo.invalid"


class Accounts:
    """Users and their tokens."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, email: str, password: str, *, is_superuser: bool, is_active: bool = True) -> str:
        """Add or replace a user; returns the token."""
        token = secrets.token_hex(20)
        self._put(email, password, token, is_superuser=is_superuser, is_active=is_active)
        return token

    def ensure_admin(self, token: str, password: str) -> None:
        self._put(ADMIN_EMAIL, password, token, is_superuser=True, is_active=True)

    def _put(self, email: str, password: str, token: str, *, is_superuser: bool, is_active: bool) -> None:
        self._db.execute(
            "INSERT INTO users (email, password_hash, token, is_superuser, is_active) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (email) DO UPDATE SET password_hash = excluded.password_hash, token = excluded.token, "
            "is_superuser = excluded.is_superuser, is_active = excluded.is_active",
            email, _hash(password, secrets.token_bytes(16)), token, is_superuser, is_active,
        )  # fmt: skip

    def token(self, email: str, password: str) -> str | None:
        """The user's token; None for wrong credentials and for inactive users alike."""
        row = self._db.one("SELECT * FROM users WHERE email = ? AND is_active", email)
        if row is None:
            return None
        salt = bytes.fromhex(row["password_hash"].partition("$")[0])
        return str(row["token"]) if hmac.compare_digest(row["password_hash"], _hash(password, salt)) else None


def secret_file(path: Path) -> str:
    """The secret in the file; a fresh one, readable by its owner alone, where there is no file."""
    if not path.exists():
        # Written aside and linked: a kill in between leaves no empty secret, and a file that appeared meanwhile wins.
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"{secrets.token_hex(20)}\n")
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    secret = path.read_text().strip()
    if not secret:
        raise FixConfig(f"{path} is empty: write a token into it, or delete it to have one made")
    return secret


def _hash(password: str, salt: bytes) -> str:
    return f"{salt.hex()}${hashlib.scrypt(password.encode(), salt=salt, n=2**12, r=8, p=1).hex()}"
