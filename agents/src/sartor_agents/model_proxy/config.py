"""What the proxy is given: one JSON file, with the keys themselves in files or variables of their own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sartor_agents.backends.conversation.accounting import Price
from sartor_agents.backends.conversation.tool import problems


class ConfigError(Exception):
    """The configuration cannot be used; the message names the field and what to do."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EndpointConfig(Part):
    """One provider. `url` up to and including the version; the key from a file or a variable, or none."""

    url: str = Field(pattern=r"^https?://[^\s]+$")
    key_file: Path | None = None
    key_variable: str | None = None
    organization: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.key_file is not None and self.key_variable is not None:
            raise ValueError("give key_file or key_variable, not both")
        return self

    def key(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """The key, read when it is needed, so that a renewed one is used. Raises `ConfigError`."""
        if self.key_variable is not None:
            key = environment.get(self.key_variable, "").strip()
            if not key:
                raise ConfigError(f"{self.key_variable} is not set; put the key of {self.url} into it")
            return key
        if self.key_file is None:
            return None
        try:
            key = self.key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.key_file}: the key of {self.url} cannot be read: {error}") from error
        if not key:
            raise ConfigError(f"{self.key_file} is empty; put the key of {self.url} into it")
        return key


class TranscriptConfig(Part):
    keep: Literal["full", "summary", "none"] = "full"
    maximum_bytes: int = Field(default=256 << 20, ge=1 << 16)


class ProxyConfig(Part):
    """`state` is the folder of ledger and transcripts; `grant_key_file` holds the key that grants are signed with.

    `port` 0 takes a free one; `port_file` is written with the port once it listens. Seconds: `silence` between two signs of
    life of a provider, `connect` for a connection, `call` for a whole call.
    """

    state: Path
    grant_key_file: Path
    endpoints: tuple[EndpointConfig, ...] = Field(min_length=1, max_length=8)
    prices: dict[str, Price] = Field(default_factory=dict[str, Price])
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    port_file: Path | None = None
    maximum_output_tokens: int = Field(default=32_000, ge=1)
    maximum_answer_bytes: int = Field(default=32 << 20, ge=1 << 16)
    maximum_request_bytes: int = Field(default=32 << 20, ge=1 << 16)
    recorded_bytes: int = Field(default=512 << 20, ge=1 << 20)
    requests_per_minute: int | None = Field(default=None, ge=1)
    silence: float = Field(default=300.0, gt=0)
    connect: float = Field(default=15.0, gt=0)
    call: float = Field(default=3600.0, gt=0)
    transcripts: TranscriptConfig = TranscriptConfig()

    def money(self, model: str) -> Price | None:
        return self.prices.get(model)


def read_config(path: Path) -> ProxyConfig:
    """Raises `ConfigError`."""
    try:
        return ProxyConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{path} is no configuration of the model proxy:\n{problems(error)}") from error
