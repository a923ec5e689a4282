from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.hardware.memory_use import GIB, MIB, DeviceMemory, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("24GiB", 24 * GIB),
        ("24G", 24 * GIB),
        ("24GB", 24 * GIB),
        ("24 gib", 24 * GIB),
        ("512MiB", 512 * MIB),
        ("512m", 512 * MIB),
        ("1.5GiB", 3 * GIB // 2),
        ("1T", 1024 * GIB),
        ("64KiB", 1 << 16),
        ("1000000", 1_000_000),
        (" 7B ", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "24Gib/s", "-1G", "0", "0.0G", "1e9", "24PiB", "nan", "1,5G", "9" * 40, "２G"]
)
def test_what_is_no_size_is_refused_with_what_is_wanted(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_bytes(text, "ram_limit")
    assert refused.value.message == f"ram_limit={text}: want a size such as 24GiB, 512MiB or 1.5GiB"


def test_sizes_are_written_as_people_read_them() -> None:
    assert [format_bytes(n) for n in (0, 20480, MIB - 1, 98 * MIB, GIB - 1, GIB, int(5.25 * GIB), 1000 * GIB)] == [
        *("0 MiB", "20 KiB", "1 MiB", "98 MiB", "1.0 GiB", "1.0 GiB", "5.2 GiB", "1000.0 GiB"),
    ]


@given(st.integers(MIB, 1 << 50))
def test_what_is_written_is_read_again_within_its_last_digit(n_bytes: int) -> None:
    assert parse_bytes(format_bytes(n_bytes)) == pytest.approx(n_bytes, abs=max(MIB, n_bytes * 0.05))


def test_a_total_is_the_sum_of_its_parts() -> None:
    assert DeviceMemory(1, 20, 300, 4000).total_bytes == 4321
