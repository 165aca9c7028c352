"""How well each card is: memory errors, power cap, performance level, PCI Express link, temperature, who uses it.

Read from sysfs of the cards that have a DRM device. A card that sleeps (runtime suspend, as laptops do) is left asleep:
these reads would wake it. Source of the files: Linux drivers/gpu/drm/amd/amdgpu/amdgpu_pm.c, amdgpu_ras.c and
Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fa_doctor.facts.driver import Driver
from fa_doctor.facts.gpus.model import Gpu, Gpus
from fa_doctor.facts.gpus.reading import AMD, hexadecimal
from fa_doctor.host import Host

__all__ = ["CardHealth", "Health", "Link", "RasCount", "Usage", "gather", "parse_dpm", "parse_link_level", "parse_ras"]

_BLOCK_LIMIT = 40  # RAS blocks of a card that are read; an MI300X has about 20


@dataclass(frozen=True, slots=True)
class RasCount:
    """Errors that one block of a card (umc is its memory) counted since the driver was loaded."""

    block: str
    uncorrectable: int
    correctable: int


@dataclass(frozen=True, slots=True)
class Link:
    """A PCI Express link: GT/s and lanes, now and at best. `at` is the port whose link it is."""

    speed: float | None
    width: int | None
    max_speed: float | None
    max_width: int | None
    at: str


@dataclass(frozen=True, slots=True)
class Usage:
    """A process that KFD knows as a user of the GPUs."""

    pid: int
    name: str | None


@dataclass(frozen=True, slots=True)
class CardHealth:
    """One card. Powers in watts, temperatures in degrees Celsius, clocks in MHz; None: not known."""

    card: int  # as Gpu.card
    folder: str
    asleep: bool = False
    performance_level: str | None = None
    engine_clock: int | None = None
    engine_clock_max: int | None = None
    power_cap: float | None = None
    power_cap_default: float | None = None
    power_cap_max: float | None = None
    temperature: float | None = None
    temperature_critical: float | None = None
    link: Link | None = None
    ras: tuple[RasCount, ...] = ()
    vram_used: int | None = None
    unreadable: tuple[str, ...] = ()  # files that gave an I/O error, as those of a GPU that is gone do


@dataclass(frozen=True, slots=True)
class Health:
    """Every card that has a DRM device, and the processes that use the GPUs."""

    cards: tuple[CardHealth, ...] = ()
    users: tuple[Usage, ...] = ()

    def of(self, gpu: Gpu) -> CardHealth | None:
        """The health of the card that a device is on."""
        return next((card for card in self.cards if card.card == gpu.card), None)


def gather(host: Host, gpus: Gpus, driver: Driver) -> Health:
    """Reads each card once. While processes hang in the driver nothing is read that would ask the card itself."""
    cards: dict[int, CardHealth] = {}
    for gpu in gpus.known:
        if gpu.card is not None and gpu.card_index is not None and gpu.card not in cards:
            cards[gpu.card] = _card(host, gpu.card, gpu, wedged=bool(driver.stuck_processes))
    return Health(tuple(cards.values()), _users(host))


def _card(host: Host, number: int, gpu: Gpu, *, wedged: bool) -> CardHealth:
    folder = f"/sys/class/drm/card{gpu.card_index}/device"
    asleep = host.read_line(f"{folder}/power/runtime_status") == "suspended"
    link = _link(host, folder)
    if asleep or wedged:
        return CardHealth(number, folder, asleep=asleep, link=link)
    sensors = _sensors(host, folder)
    clock, clock_max = parse_dpm(host.read(f"{folder}/pp_dpm_sclk", limit=1 << 14).text or "")
    used = host.read_line(f"{folder}/mem_info_vram_used")
    return CardHealth(
        card=number,
        folder=folder,
        performance_level=host.read_line(f"{folder}/power_dpm_force_performance_level") or None,
        engine_clock=clock,
        engine_clock_max=clock_max,
        power_cap=_micro(sensors.get("power1_cap")),
        power_cap_default=_micro(sensors.get("power1_cap_default")),
        power_cap_max=_micro(sensors.get("power1_cap_max")),
        # The second sensor is the hottest spot ("junction"), where there is one.
        temperature=_milli(sensors.get("temp2_input") or sensors.get("temp1_input")),
        temperature_critical=_milli(sensors.get("temp2_crit") or sensors.get("temp1_crit")),
        link=link,
        ras=_ras(host, folder),
        vram_used=int(used) if used and used.isascii() and used.isdigit() and len(used) < 20 else None,
    )


def _sensors(host: Host, folder: str) -> dict[str, str]:
    monitors = [name for name in host.list(f"{folder}/hwmon").names if name.startswith("hwmon")]
    if not monitors:
        return {}
    wanted = (
        "power1_cap",
        "power1_cap_default",
        "power1_cap_max",
        "temp1_input",
        "temp2_input",
        "temp1_crit",
        "temp2_crit",
    )
    values = {name: host.read_line(f"{folder}/hwmon/{monitors[0]}/{name}") for name in wanted}
    return {name: value for name, value in values.items() if value}


def _number(text: str | None, scale: float) -> float | None:
    return int(text) / scale if text and re.fullmatch(r"-?[0-9]{1,15}", text, re.ASCII) else None


def _micro(text: str | None) -> float | None:
    return _number(text, 1e6)


def _milli(text: str | None) -> float | None:
    return _number(text, 1e3)


def parse_dpm(text: str) -> tuple[int | None, int | None]:
    """Current and highest clock (MHz) of a pp_dpm_* file: `1: 2660Mhz *`, the star at the current one."""
    current: int | None = None
    highest: int | None = None
    for match in re.finditer(r"^\w+:\s*([0-9]{1,6})\s*Mhz\s*(\*?)", text, re.MULTILINE | re.IGNORECASE | re.ASCII):
        clock = int(match[1])
        highest = clock if highest is None else max(highest, clock)
        current = clock if match[2] else current
    return current, highest


def parse_link_level(text: str) -> tuple[float | None, int | None]:
    """Speed (GT/s) and lanes of the best level of pp_dpm_pcie: `1: 16.0GT/s, x16 619Mhz *`."""
    levels = re.findall(r"^\w+:\s*([0-9]{1,3}(?:\.[0-9])?)\s*GT/s,\s*x([0-9]{1,2})\b", text, re.MULTILINE | re.ASCII)
    best = max(((float(speed), int(width)) for speed, width in levels), default=None)
    return best if best else (None, None)


def parse_ras(text: str) -> tuple[int, int]:
    """Uncorrectable and correctable errors of a *_err_count file: lines `ue: 0` and `ce: 0`."""
    counts = {
        key: int(value) for key, value in re.findall(r"^(ue|ce):\s*([0-9]{1,18})\s*$", text, re.MULTILINE | re.ASCII)
    }
    return counts.get("ue", 0), counts.get("ce", 0)


def _ras(host: Host, folder: str) -> tuple[RasCount, ...]:
    names = [name for name in host.list(f"{folder}/ras").names if name.endswith("_err_count")]
    counts = []
    for name in names[:_BLOCK_LIMIT]:
        uncorrectable, correctable = parse_ras(host.read(f"{folder}/ras/{name}", limit=4096).text or "")
        counts.append(RasCount(name.removesuffix("_err_count"), uncorrectable, correctable))
    return tuple(counts)


def _link(host: Host, folder: str) -> Link | None:
    """The link between card and board.

    A Radeon sits behind a switch of its own: what its function reports is the link inside the card, always at its
    best. The card's own upstream port, the farthest ancestor with AMD's graphics vendor id, has the link to the board.
    """
    place = folder
    for ancestor in reversed(_ancestors(host.real_path(folder) or "")):
        if hexadecimal(host.read_line(f"{ancestor}/vendor")) != AMD:
            break
        place = ancestor
    current = host.read_line(f"{place}/current_link_speed"), host.read_line(f"{place}/current_link_width")
    best = host.read_line(f"{place}/max_link_speed"), host.read_line(f"{place}/max_link_width")
    if not any((*current, *best)):
        return None
    return Link(_speed(current[0]), _lanes(current[1]), _speed(best[0]), _lanes(best[1]), place)


def _ancestors(path: str) -> list[str]:
    """The PCI devices above a device in /sys/devices, the topmost first."""
    parts = path.split("/")
    return [
        "/".join(parts[: number + 1])
        for number, part in enumerate(parts[:-1])
        if re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", part)
    ]


def _speed(text: str | None) -> float | None:
    match = re.match(r"([0-9]{1,3}(?:\.[0-9])?) GT/s", text or "", re.ASCII)
    return float(match[1]) if match else None


def _lanes(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,2}", text, re.ASCII) and int(text) else None


def _users(host: Host) -> tuple[Usage, ...]:
    pids = [name for name in host.list("/sys/class/kfd/kfd/proc").names if name.isascii() and name.isdigit()]
    return tuple(Usage(int(pid), host.read_line(f"/proc/{pid}/comm")) for pid in pids[:64])
