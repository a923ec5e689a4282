"""All checks, one after another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

from appliance import logs
from appliance.errors import ApplianceError
from appliance.schemas.doctor import Finding
from appliance.service.doctor.disks import check_space, check_state_folder, check_store_speed
from appliance.service.doctor.gpu import check_cuda, check_gpu
from appliance.service.doctor.limit import TookTooLong, limited
from appliance.service.doctor.memory import check_memory
from appliance.service.doctor.port import check_port
from appliance.service.doctor.processor import check_llama, check_processor
from appliance.service.doctor.speed import check_speed, limit_s
from appliance.service.doctor.stored import check_default_model, check_lock
from appliance.service.doctor.subject import Subject, Tools, look_at
from appliance.settings import Settings

log = logging.getLogger(__name__)

Check = Callable[[Subject], Iterator[Finding]]

CHECK_LIMIT_S = 20.0


def examine(config: Settings, *, serving: bool, speed: bool) -> list[Finding]:
    """What every check finds. Blocks for seconds, with ``speed`` for longer; from any thread.

    ``serving``: the server itself asks, whose port is its own. ``speed``: also load the default model and measure it.
    """
    return list(examine_each(config, serving=serving, speed=speed))


def examine_each(
    config: Settings, *, serving: bool, speed: bool, set_floor: bool = False, tools: Tools | None = None
) -> Iterator[Finding]:
    """As :func:`examine`, each as it comes. ``set_floor`` stores the measured speed as the one to compare with."""
    subject = look_at(config, tools or Tools(), serving=serving)
    checks: list[tuple[str, Check, float]] = [
        ("processor", check_processor, CHECK_LIMIT_S),
        ("llama.cpp", check_llama, CHECK_LIMIT_S),
        ("GPU", check_gpu, CHECK_LIMIT_S),
        ("CUDA", check_cuda, CHECK_LIMIT_S),
        ("lock file", check_lock, CHECK_LIMIT_S),
        ("default model", check_default_model, CHECK_LIMIT_S),
        ("memory", check_memory, CHECK_LIMIT_S),
        ("disk", check_space, CHECK_LIMIT_S),
        ("store speed", check_store_speed, CHECK_LIMIT_S),
        ("state folder", check_state_folder, CHECK_LIMIT_S),
    ]
    if not serving:
        checks.append(("port", check_port, CHECK_LIMIT_S))
    if speed:
        # The job ends by its own limit, and says so.
        checks.append(("speed", partial(check_speed, set_floor=set_floor), 2 * limit_s(subject.default_model)))
    for name, check, limit in checks:
        yield from _run(name, partial(check, subject), limit)


def _run(name: str, check: Callable[[], Iterator[Finding]], limit: float) -> list[Finding]:
    try:
        return limited(lambda: list(check()), limit_s=limit)
    except TookTooLong as error:
        remedy = "a disk or a driver hangs: see the kernel's messages (dmesg)"
        return [Finding(name=name, status="failed", message=error.message, remedy=remedy)]
    except ApplianceError as error:
        return [Finding(name=name, status="failed", message=error.message)]
    except Exception as error:  # one check that breaks must not hide what the others find
        log.exception(logs.event("check_broke", check=name))
        return [Finding(name=name, status="failed", message=f"the check broke: {type(error).__name__}: {error}")]
