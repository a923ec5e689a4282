"""Settings: ``APPLIANCE_*`` in the environment, then ``appliance.toml``, then the defaults here.

A bad value, or a name that is no setting, stops the start with its name, its value and what is wanted.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from appliance.errors import ConfigError
from appliance.schemas.sampling import SamplingFields

PREFIX = "APPLIANCE_"
CONFIG_VARIABLE = "APPLIANCE_CONFIG"
# The key that the command line's client sends.
KEY_VARIABLE = "APPLIANCE_API_KEY"
DEFAULT_CONFIG = "appliance.toml"


def _user_dir(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "llm-appliance"


# ggml's names of the types that a KV cache may have.
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_0", "q5_1", "q4_0", "q4_1"]


class SamplingDefaults(SamplingFields):
    """What requests get that leave these fields out."""

    model_config = ConfigDict(extra="forbid")


def _is_a_name(alias: str) -> str:
    if not alias or "@" in alias or not alias.isprintable():
        raise ValueError("a name that isn't empty, without @")
    return alias


class ModelSettings(BaseModel):
    """What an operator can set for one model, as ``[models.NAME]``; what is left out is as for all models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_ctx: Annotated[int | None, Field(ge=64, le=1 << 24)] = None
    n_gpu_layers: Annotated[int | None, Field(ge=-1, le=10_000)] = None
    type_k: CacheType | None = None
    type_v: CacheType | None = None
    max_running: Annotated[int | None, Field(ge=1, le=128)] = None
    max_adapters: Annotated[int | None, Field(ge=0, le=16)] = None
    adapter_scales: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]],
        Field(description="How strong an adapter is, by its name; those that are left out: 1."),
    ] = {}
    draft_model: Annotated[
        str | None,
        Field(min_length=1, description="A smaller model of the same vocabulary, which guesses how answers go on."),
    ] = None
    require_gpu: bool | None = None
    ttl_s: Annotated[float | None, Field(gt=0)] = None
    pinned: Annotated[bool, Field(description="Never unloaded to make room for another.")] = False
    preload: Annotated[bool, Field(description="Loaded when the server starts.")] = False
    aliases: Annotated[
        list[Annotated[str, AfterValidator(_is_a_name)]], Field(description="Further names that apps may call it by.")
    ] = []
    sampling: Annotated[SamplingDefaults, Field(description="For requests that leave these fields out.")] = (
        SamplingDefaults()
    )


class Settings(BaseSettings):
    """What an operator can set. Each field's description is its help text and its line in the README."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: Annotated[str, Field(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="TCP port; 0 takes a free one.")] = 8080
    state_dir: Annotated[
        Path, Field(description="Folder for what the running appliance remembers; one appliance each.")
    ] = Field(default_factory=lambda: _user_dir("XDG_STATE_HOME", ".local/state"))
    models_dir: Annotated[Path, Field(description="Folder of the published model files.")] = Field(
        default_factory=lambda: _user_dir("XDG_DATA_HOME", ".local/share") / "models"
    )
    image_models_dir: Annotated[
        Path | None, Field(description="A second folder of published files that is only read, searched first.")
    ] = None
    converter_python: Annotated[
        Path | None,
        Field(description="Python that has the converter; unset: that of `make convert`, .venv-convert/bin/python."),
    ] = None
    models_lock: Annotated[Path, Field(description="The file that pins every model's bytes.")] = Path("models.lock")
    model: Annotated[str | None, Field(description="Name of the model to serve; unset: the first in models.lock.")] = (
        None
    )
    n_ctx: Annotated[
        int | None,
        Field(
            ge=64,
            le=1 << 24,
            description="KV cache size in tokens, shared by all requests; unset: automatic.",
        ),
    ] = None
    n_batch: Annotated[int, Field(ge=8, le=8192, description="Most tokens computed in one step.")] = 512
    prompt_step_s: Annotated[
        float,
        Field(gt=0, le=60, description="Longest that answers which stream stand still for a part of another prompt."),
    ] = 0.25
    stream_interval_s: Annotated[
        float,
        Field(ge=0, le=1, description="Tokens computed faster than this are sent together; 0: each by itself."),
    ] = 0.01
    n_threads: Annotated[
        int | None,
        Field(ge=1, le=512, description="Threads that decode; unset: the physical cores this process may use."),
    ] = None
    n_threads_batch: Annotated[
        int | None, Field(ge=1, le=512, description="Threads that compute prompts; unset: as n_threads.")
    ] = None
    poll: Annotated[
        int, Field(ge=0, le=100, description="How long threads look for work before they sleep; 0: not at all.")
    ] = 0
    n_gpu_layers: Annotated[
        int | None,
        Field(ge=-1, le=10_000, description="Layers to put on GPUs; -1: all; unset: as many as fit."),
    ] = None
    type_k: Annotated[CacheType, Field(description="Type of the keys in the KV cache: f16, q8_0 and other types.")] = (
        "f16"
    )
    type_v: Annotated[CacheType, Field(description="Type of the values in the KV cache.")] = "f16"
    require_gpu: Annotated[
        bool, Field(description="Refuse to serve without a GPU, instead of computing on the processor.")
    ] = False
    ram_limit: Annotated[
        str | None,
        Field(
            description="Most RAM that all models may take, such as 24GiB; unset: what this machine or container has."
        ),
    ] = None
    gpu_memory_limit: Annotated[
        str | None, Field(description="Most memory that all models may take of each GPU; unset: what is free.")
    ] = None
    autoload: Annotated[bool, Field(description="Load a model when a request asks for it.")] = True
    ttl_s: Annotated[
        float | None,
        Field(gt=0, description="Seconds without a request after which a model is unloaded; unset: never."),
    ] = None
    switch_wait_s: Annotated[
        float,
        Field(ge=0, le=600, description="Longest that requests wait for others whose model is in their model's way."),
    ] = 5.0
    switch_drain_s: Annotated[
        float,
        Field(ge=0, le=3600, description="Seconds that a model which makes way may take to finish what it is doing."),
    ] = 60.0
    wedged_after_s: Annotated[
        float,
        Field(gt=0, le=3600, description="Seconds without a finished step after which an engine at work is replaced."),
    ] = 30.0
    max_running: Annotated[
        int,
        Field(ge=1, le=128, description="Most sequences computed at the same time; above 63, seeds are not exact."),
    ] = 32
    max_adapters: Annotated[
        int,
        Field(
            ge=0,
            le=16,
            description="Most LoRA adapters of a model computed with at the same time, each in a context of its own.",
        ),
    ] = 2
    max_waiting: Annotated[
        int,
        Field(ge=0, le=100_000, description="Most requests queued for a model; more are refused with 429."),
    ] = 256
    api_keys_file: Annotated[
        Path | None,
        Field(description="File of API keys: one a line, then optionally name=, weight=, scope=; unset: none wanted."),
    ] = None
    auth: Annotated[
        Literal["keys", "off"],
        Field(description="off: serve without keys, although published beyond this machine."),
    ] = "keys"
    published_address: Annotated[
        str | None,
        Field(description="Address at which others reach the server, if that is not host (in a container)."),
    ] = None
    allowed_hosts: Annotated[
        list[str], Field(description="Names that clients may call the server by; addresses and localhost always are.")
    ] = []
    cors_origins: Annotated[list[str], Field(description="Origins whose web pages may call the API; empty: none.")] = []
    root_path: Annotated[str, Field(description="Path under which a proxy shows the server.")] = ""
    trusted_proxies: Annotated[
        list[str], Field(description="Addresses of proxies whose X-Forwarded headers are believed.")
    ] = []
    tls_cert: Annotated[Path | None, Field(description="Certificate chain in PEM; serves HTTPS, TLS 1.2 or newer.")] = (
        None
    )
    tls_key: Annotated[Path | None, Field(description="Private key of tls_cert, if it is not in the same file.")] = None
    max_body_bytes: Annotated[
        int, Field(ge=1024, le=1 << 30, description="Largest request body; more is refused with 413.")
    ] = 8 << 20
    max_connections: Annotated[
        int, Field(ge=1, le=60_000, description="Most connections at the same time; more are refused with 503.")
    ] = 1024
    prefix_reuse: Annotated[
        bool, Field(description="Start a prompt from what earlier prompts with the same beginning computed.")
    ] = True
    kv_disk_limit: Annotated[
        str,
        Field(
            description="Most that computed beginnings of prompts may take on disk, for the time after a restart or a "
            "switch of models; 0: none are kept there."
        ),
    ] = "4GiB"
    kv_disk_dir: Annotated[Path | None, Field(description="Folder of these files; unset: kv in state_dir.")] = None
    speculation: Annotated[
        bool, Field(description="Guess how answers go on where they repeat their prompt; what is wrong is dropped.")
    ] = True
    response_cache: Annotated[
        bool, Field(description="Keep answers to deterministic requests, and give them again to the same requests.")
    ] = True
    response_cache_file: Annotated[
        Path | None,
        Field(
            description="File of the response cache; unset: responses.db in state_dir. Several servers may share it."
        ),
    ] = None
    response_cache_limit: Annotated[
        str, Field(description="Most that its file may use; the answers that were used longest ago make room.")
    ] = "1GiB"
    response_cache_ttl_s: Annotated[
        float | None, Field(gt=0, description="Seconds after which a stored answer is not given any more.")
    ] = 30 * 86400.0
    drain_s: Annotated[float, Field(ge=0, le=3600, description="Seconds a stop waits for running requests.")] = 30.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least severe log line printed.")
    ] = "info"
    log_format: Annotated[Literal["console", "json"], Field(description="Log lines for people or for programs.")] = (
        "console"
    )
    models: Annotated[
        dict[str, ModelSettings],
        Field(description="Settings of single models: tables [models.NAME] in appliance.toml."),
    ] = {}

    @model_validator(mode="after")
    def _a_step_has_room_for_all_that_run(self) -> Settings:
        if self.max_running > self.n_batch:
            raise ValueError(f"max_running={self.max_running}: want at most n_batch, which is {self.n_batch}")
        for name, own in self.models.items():
            if own.max_running is not None and own.max_running > self.n_batch:
                raise ValueError(
                    f"models.{name}.max_running={own.max_running}{_place('models')}: want at most n_batch, "
                    f"which is {self.n_batch}"
                )
        return self

    @model_validator(mode="after")
    def _a_key_belongs_to_a_certificate(self) -> Settings:
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError(f"tls_key={self.tls_key}: want tls_cert, too")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = _config_file()
        if path is None:
            return init_settings, env_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)


def load(**overrides: Any) -> Settings:
    """The settings in force; ``overrides`` (from the command line) that are None count as not given.

    Raises:
        ConfigError: naming the setting, its value and what is wanted.
    """
    _refuse_unknown_variables()
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(dict(detail)) for detail in error.errors())) from None
    except ValueError as error:  # appliance.toml that is no TOML
        raise ConfigError(f"{_config_file()}: {error}") from None


def _config_file() -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    path = Path(named or DEFAULT_CONFIG)
    if path.is_file():
        return path
    if named:
        raise ConfigError(f"{CONFIG_VARIABLE}={named}: there is no such file")
    return None


def _refuse_unknown_variables() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE, KEY_VARIABLE}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in known:
            close = difflib.get_close_matches(variable, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
            raise ConfigError(f"{variable}={os.environ[variable]}: there is no such setting{hint}")


def _explain(detail: dict[str, Any]) -> str:
    if not detail["loc"]:  # settings that don't suit each other
        return str(detail["msg"]).removeprefix("Value error, ")
    name = ".".join(map(str, detail["loc"]))
    variable = PREFIX + str(detail["loc"][0]).upper()
    if detail["type"] == "extra_forbidden":
        is_sampling = "sampling" in detail["loc"]
        known = SamplingDefaults if is_sampling else Settings if len(detail["loc"]) == 1 else ModelSettings
        close = difflib.get_close_matches(str(detail["loc"][-1]), known.model_fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        if isinstance(detail["input"], dict) and name.startswith("models."):
            hint = '; a model\'s name with a dot in it stands in quotes, as in [models."NAME-1.5"]'
        return f"{name}{_place(str(detail['loc'][0]))}: there is no such setting{hint}"
    wanted = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if name.startswith("models."):  # from a file in any case, unless all of them are in the environment
        return f"{name}={detail['input']}{_place('models')}: want {wanted}"
    return f"{variable if variable in os.environ else name}={detail['input']}: want {wanted}"


def _place(field: str) -> str:
    """Where a setting was made, to stand behind it."""
    variable = PREFIX + field.upper()
    return f" in {variable if variable in os.environ else _config_file()}"
