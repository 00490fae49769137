"""How settings are read: which variable a field is set by, from the process or from a file; no setting is named here.

The only code that touches the environment; `settings` names what it may say.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from dotenv import dotenv_values
from pydantic import AliasChoices, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from tidegate.core.errors import FixConfig

PREFIX: Final = "TIDEGATE_"
PEER_PREFIX: Final = "AMI_"

G = TypeVar("G", bound="Group")


def peer(own: str, *peers: str) -> AliasChoices:
    """The names of a setting, ours before the peer's."""
    return AliasChoices(f"{PREFIX}{own}", *(f"{PEER_PREFIX}{peer}" for peer in peers))


class FirstOfNames(PydanticBaseSettingsSource):
    """Each field by the first of its names that is set at all, be it in the environment or in the file.

    pydantic's own two sources would let the peer's name in the environment win over ours in the file.
    """

    def __init__(self, group: type[BaseSettings], file: Path | None) -> None:
        super().__init__(group)
        self._texts = texts(file)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        for name in _names(field, field_name):
            if self._texts.get(name):
                return self._texts[name], field_name if field.validation_alias is None else name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = (self.get_field_value(field, name) for name, field in self.settings_cls.model_fields.items())
        return {key: text for text, key, _ in found if text is not None}


def texts(file: Path | None) -> dict[str, str]:
    """Every variable of the file and of the process, by its name in capitals; the process wins."""
    filed = dotenv_values(file) if file is not None and file.is_file() else {}
    return {name.upper(): text for name, text in {**filed, **os.environ}.items() if text is not None}


def temporary_folder() -> Path:
    """Where libraries put small files; also where none can be written, so that `doctor` lives to say so."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Path("/tmp")  # noqa: S108


class Group(BaseSettings):
    """Settings that belong together; the docstring heads their table."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic passes it by name
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(dotenv_settings, DotEnvSettingsSource), "pydantic passes its own"
        file = dotenv_settings.env_file
        return init_settings, FirstOfNames(settings_cls, file if isinstance(file, Path) else None)

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: Any, info: Any) -> Any:
        """Comma-separated, as people write lists into .env files."""
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, str) and annotation in {tuple[str, ...], frozenset[str]}:
            return [part.strip() for part in value.split(",") if part.strip()]
        return value


def secret(value: SecretStr | None, file: Path | None = None, named_by: str = "") -> str | None:
    """A secret given outright, else in a file."""
    if value is not None:
        return value.get_secret_value().strip() or None
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise FixConfig(f"{named_by}: {file} cannot be read: {error}") from None


def names_of(group: type[Group], field: str) -> tuple[str, ...]:
    """The variables that set this field, first wins."""
    return _names(group.model_fields[field], field)


def _names(field: FieldInfo, name: str) -> tuple[str, ...]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (str(alias),) if alias is not None else (f"{PREFIX}{name.upper()}",)


def read(group: type[G], env_file: Path) -> G:
    try:
        return group(_env_file=env_file)
    except ValidationError as error:
        problems = [f"{_variable(str(each['loc'][0]))}: {each['msg']}" for each in error.errors(include_url=False)]
        raise FixConfig("; ".join(problems)) from None


def _variable(key: str) -> str:
    """The variable behind a key of the source: an alias is one, a field's name lacks the prefix."""
    return key if key.isupper() else f"{PREFIX}{key.upper()}"
