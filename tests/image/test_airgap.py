"""With docker/compose.airgap.yaml: it serves, and not one packet tries to leave.

An interface of this machine leads to a network that the tests made, where a host listens: what leaves is seen there.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.image.conftest import Built
from tests.image.engine import MODEL, Project, docker, inspect, project, run

# TEST-NET-2: nobody's.
HERE, OUTSIDE = "198.51.100.1", "198.51.100.2"


@dataclass(frozen=True)
class Outside:
    namespace: str


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    """A host beyond this one, which answers on port 80."""
    name = f"out{uuid.uuid4().hex[:6]}"
    run("ip", "netns", "add", name)
    server = None
    try:
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "addr", "add", f"{HERE}/24", "dev", name)
        run("ip", "link", "set", name, "up")
        for words in (["addr", "add", f"{OUTSIDE}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            run("ip", "-n", name, *words)
        listen = ["ip", "netns", "exec", name, "python3", "-u", "-m", "http.server", "80", "--bind", OUTSIDE]
        server = subprocess.Popen(listen, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert server.stdout is not None
        server.stdout.readline()
        yield Outside(name)
    finally:
        if server is not None:
            server.terminate()
            server.wait(10)
            assert server.stdout is not None
            server.stdout.close()
        run("ip", "netns", "delete", name)


@contextmanager
def captured(interface: str, expression: str, path: Path) -> Iterator[None]:
    """What passes an interface while the block lasts, in ``path``."""
    command = ["tcpdump", "-i", interface, "-n", "-U", "-w", path, "--immediate-mode", expression]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "listening on" not in process.stderr.readline():
            assert process.poll() is None
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


def packets_in(path: Path) -> list[str]:
    done = subprocess.run(["tcpdump", "-n", "-r", path], capture_output=True, text=True)
    return done.stdout.splitlines()


def network_of(cut_off: Project) -> tuple[str, str]:
    """The bridge's interface on this machine, and the container's address."""
    (network,) = inspect(cut_off.container)["NetworkSettings"]["Networks"].values()
    return f"br-{network['NetworkID'][:12]}", network["IPAddress"]


def reaches(running: Project, host: str) -> bool:
    code = f"import socket; socket.create_connection(({host!r}, 80), 3).close()"
    return "Error" not in running.inside("python", "-c", code, status=None)


def test_nothing_tries_to_leave_while_it_starts_and_serves(appliance_image: Built, tmp_path: Path) -> None:
    with project(appliance_image.site, appliance_image.image, "docker/compose.airgap.yaml") as cut_off:
        # The bridge is there before the container runs, so that its first packet is seen.
        cut_off.compose("up", "--no-start")
        (network,) = inspect(cut_off.container)["NetworkSettings"]["Networks"]
        identity = docker("network", "inspect", "--format", "{{.Id}}", network)
        subnet, gateway = docker(
            "network", "inspect", "--format", "{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}", network
        ).split()
        leaving = f"ip and src net {subnet} and not src host {gateway} and not dst host {gateway}"
        started, names = tmp_path / "leaving.pcap", tmp_path / "names.pcap"
        with captured(f"br-{identity[:12]}", leaving, started), captured("any", "port 53", names):
            cut_off.up()
            assert cut_off.ask("Hi").status_code == 200
            assert cut_off.ask("Hi").headers["X-Cache"] == "hit"
            assert cut_off.inside("appliance", "chat", "--max-tokens", "4", "Hi").strip()
            assert cut_off.inside("appliance", "health") == f"ready {MODEL}"
            # The capture sees what leaves: with this, there is something.
            name = f"canary-{uuid.uuid4().hex[:12]}"
            cut_off.inside("python", "-c", f"import socket; socket.getaddrinfo('{name}.example', 80)", status=None)
        assert packets_in(started) == []
        assert name.encode() not in names.read_bytes()


def test_a_packet_that_does_try_is_seen_and_gets_no_answer(
    appliance_image: Built, outside: Outside, tmp_path: Path
) -> None:
    """Both captures can fail: without the overlay, names are asked and the host outside is reached."""
    names, leaving = tmp_path / "names.pcap", tmp_path / "leaving.pcap"
    with project(appliance_image.site, appliance_image.image) as connected:
        connected.up()
        assert reaches(connected, OUTSIDE)
        name = f"canary-{uuid.uuid4().hex[:12]}"
        with captured("any", "port 53", names):
            connected.inside("python", "-c", f"import socket; socket.getaddrinfo('{name}.example', 80)", status=None)
        assert name.encode() in names.read_bytes()
    with project(appliance_image.site, appliance_image.image, "docker/compose.airgap.yaml") as cut_off:
        cut_off.up()
        bridge, address = network_of(cut_off)
        with captured(bridge, f"src host {address} and dst host {OUTSIDE}", leaving):
            assert not reaches(cut_off, OUTSIDE)
        assert packets_in(leaving)
        # Its port is published all the same.
        assert cut_off.ask("Hi").status_code == 200
