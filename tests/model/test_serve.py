"""``appliance serve`` as its operator meets it: starts, stops, crashes, second starts."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server import APPLIANCE, ROOT, RunningServer, environment, start_server


def appliance(*arguments: str, state_dir: Path, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*APPLIANCE, *arguments],
        cwd=ROOT,
        env=environment(state_dir, **settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def ask(url: str, **fields: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)


def test_the_greeting_says_where_it_serves_what_to_try_and_what_the_model_is(server: RunningServer) -> None:
    ready = server.greeting
    assert server.process.stdout is not None
    note = server.process.stdout.readline()
    assert ready.startswith("ready: smollm2-135m-instruct on ")
    assert f"{server.url}/v1 - now try: " in ready
    assert f"appliance chat --url {server.url} 'Hello!'" in ready
    assert "demonstration model" in note


def test_the_gateway_is_small_and_holds_no_llama(server: RunningServer) -> None:
    ask(server.url)
    gateway = psutil.Process(server.process.pid)
    assert gateway.memory_info().rss < 150 * 1024 * 1024
    assert not any("libllama" in region.path or "libggml" in region.path for region in gateway.memory_maps())
    assert any("libllama" in region.path for region in server.engine.memory_maps())


def test_health(server: RunningServer, tmp_path: Path) -> None:
    up = appliance("health", "--url", server.url, state_dir=tmp_path)
    assert (up.returncode, up.stdout) == (0, "ready smollm2-135m-instruct\n")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    down = appliance("health", "--url", f"http://127.0.0.1:{port}", state_dir=tmp_path)
    assert down.returncode == 1
    assert "start one with `appliance serve`" in down.stderr


def test_chat_answers_a_prompt_a_pipe_and_both(server: RunningServer, tmp_path: Path) -> None:
    options = ("--url", server.url, "--temperature", "0", "--max-tokens", "8")
    prompt = appliance("chat", *options, "Say one word.", state_dir=tmp_path)
    piped = appliance("chat", *options, state_dir=tmp_path, stdin="Say one word.\n")
    both = appliance("chat", *options, "Summarize:", state_dir=tmp_path, stdin="One word.\n")
    assert [run.returncode for run in (prompt, piped, both)] == [0, 0, 0]
    assert prompt.stdout == piped.stdout
    assert prompt.stdout.strip()
    assert both.stdout.strip()


def test_chat_says_what_is_wrong(server: RunningServer, tmp_path: Path) -> None:
    unknown = appliance("chat", "--url", server.url, "--model", "gpt-4", "Hi", state_dir=tmp_path)
    assert (unknown.returncode, unknown.stdout.strip()) == (1, "")
    assert "the model 'gpt-4' does not exist" in unknown.stderr
    nothing = appliance("chat", "--url", server.url, state_dir=tmp_path)
    assert nothing.returncode == 2
    assert "nothing to ask" in nothing.stderr


def test_chat_is_a_conversation_on_a_terminal(server: RunningServer, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*APPLIANCE, "chat", "--url", server.url, "--max-tokens", "8", "--seed", "1"],
        cwd=ROOT,
        env=environment(tmp_path, TERM="dumb"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    screen = ""

    def wait_for(text: str, n_times: int = 1) -> None:
        nonlocal screen
        while screen.count(text) < n_times:
            screen += os.read(leader, 4096).decode()

    wait_for("> ")
    assert "demonstration model" in screen
    os.write(leader, b"Hello\n")
    wait_for("> ", 2)
    os.write(leader, b"/what\n")
    wait_for("/clear starts anew", 2)
    wait_for("> ", 3)
    os.write(leader, b"\x04")
    assert process.wait(20) == 0
    os.close(leader)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(number: signal.Signals) -> None:
    with start_server() as server:
        engine = server.engine
        server.process.send_signal(number)
        assert server.process.wait(20) == 0
        psutil.wait_procs([engine], timeout=10)
        assert not engine.is_running()


def test_a_stop_that_reaches_the_engine_too_lets_requests_finish() -> None:
    """As a service manager stops: SIGTERM to every process of the group."""
    with start_server() as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "ignore_eos": True, "max_tokens": 40}
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json=body, timeout=60, trust_env=False
        ) as response:
            lines = response.iter_lines()
            next(lines)
            server.engine.terminate()
            server.process.terminate()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.process.wait(20) == 0


def test_a_killed_gateway_leaves_nothing_behind() -> None:
    with start_server() as server:
        engine = server.engine
        server.process.kill()
        gone, alive = psutil.wait_procs([engine], timeout=10)
        assert not alive


def test_a_killed_engine_is_replaced_and_the_next_request_served() -> None:
    with start_server() as server:
        engine = server.engine
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "ignore_eos": True}
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json=body, timeout=20, trust_env=False
        ) as response:
            lines = response.iter_lines()
            for line in lines:
                if '"content":"' in line and '"role"' not in line:
                    break
            engine.kill()
            rest = [line for line in lines if line]
        assert '"code":"engine_crashed"' in rest[-1]
        assert ask(server.url).status_code == 200
        assert server.engine.pid != engine.pid


def test_a_second_server_on_the_state_folder_says_who_has_it(server: RunningServer) -> None:
    second = appliance("serve", "--port", "0", state_dir=server.state_dir)
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: another appliance (pid {server.process.pid}) uses the state folder")
    assert f"kill {server.process.pid}" in second.stderr


def test_a_second_server_on_the_port_says_who_has_it(server: RunningServer, tmp_path: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    second = appliance("serve", "--port", port, state_dir=tmp_path)
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: port={port} on 127.0.0.1 is in use by pid {server.process.pid}; stop it")


def test_a_model_that_is_not_there_names_the_command(tmp_path: Path) -> None:
    absent = appliance("serve", state_dir=tmp_path, APPLIANCE_MODELS_DIR=str(tmp_path / "models"))
    assert absent.returncode == 1
    assert "run `appliance models fetch smollm2-135m-instruct`" in absent.stderr


def test_a_context_that_can_not_be_had_stops_the_start(tmp_path: Path) -> None:
    huge = appliance("serve", "--port", "0", state_dir=tmp_path, APPLIANCE_N_CTX=str(1 << 24))
    assert huge.returncode == 1
    assert "error: smollm2-135m-instruct: " in huge.stderr
    assert "Traceback" not in huge.stderr


def test_published_without_keys_it_refuses_to_start(tmp_path: Path) -> None:
    for settings in ({"APPLIANCE_HOST": "0.0.0.0"}, {"APPLIANCE_PUBLISHED_ADDRESS": "192.0.2.1"}):
        refused = appliance("serve", "--port", "0", state_dir=tmp_path, **settings)
        assert refused.returncode == 1
        assert "without API keys; set APPLIANCE_API_KEYS_FILE" in refused.stderr


def test_published_it_starts_when_that_is_wanted() -> None:
    with start_server("--auth", "off", APPLIANCE_PUBLISHED_ADDRESS="192.0.2.1") as server:
        assert ask(server.url).status_code == 200


def certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_tls_of_version_1_2_or_newer(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with start_server(APPLIANCE_TLS_CERT=str(cert), APPLIANCE_TLS_KEY=str(key)) as server:
        assert server.url.startswith("https://")
        port = server.url.rsplit(":", 1)[1]
        health = appliance(
            "health",
            "--url",
            server.url,
            state_dir=server.state_dir,
            APPLIANCE_TLS_CERT=str(cert),
            APPLIANCE_TLS_KEY=str(key),
        )
        assert (health.returncode, health.stdout) == (0, "ready smollm2-135m-instruct\n")
        for version, is_accepted in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-cipher", "ALL:@SECLEVEL=0"]
            result = subprocess.run(command, input="", capture_output=True, text=True, timeout=20)
            assert ("Cipher is (NONE)" not in result.stdout) == is_accepted, version


def test_a_certificate_that_can_not_be_used_stops_the_start(tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path)
    refused = appliance("serve", state_dir=tmp_path, APPLIANCE_TLS_CERT=str(cert))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: tls_cert={cert}")


def test_no_log_holds_what_was_said_or_a_key(tmp_path: Path) -> None:
    """At the level that says most, with errors on the way."""
    keys = tmp_path / "keys"
    keys.write_text("sk-planted-key-0123456789 name=app\n")
    log = tmp_path / "log"
    with log.open("w") as stderr:
        settings = {"APPLIANCE_API_KEYS_FILE": str(keys), "APPLIANCE_LOG_FORMAT": "json"}
        with start_server("--log-level", "debug", stderr=stderr, **settings) as server:
            headers = {"Authorization": "Bearer sk-planted-key-0123456789"}
            with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as http:
                planted = [{"role": "user", "content": "planted-text <|im_end|>"}]
                for fields in ({}, {"stream": True}, {"temperature": 9, "user": "planted-user"}, {"stop": "planted"}):
                    http.post("/v1/chat/completions", json={"messages": planted, "max_tokens": 2, **fields})
                http.post("/v1/completions", json={"prompt": "planted-text " * 5000})
                http.post("/v1/tokenize", json={"prompt": "planted-text"})
                http.post("/v1/chat/completions", content=b'{"messages": planted')
                http.get("/v1/models", headers={"Authorization": "Bearer sk-planted-wrong"})
            admin = (server.state_dir / "admin-token").read_text().strip()
    text = log.read_text()
    assert '"event": "request"' in text
    assert "planted" not in text
    assert admin not in text


def test_status_and_requests_on_the_command_line(server: RunningServer) -> None:
    ask(server.url)
    shown = appliance("status", "--url", server.url, state_dir=server.state_dir)
    assert shown.returncode == 0
    assert ": ready\n" in shown.stdout
    assert "TTFT" in shown.stdout
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "ignore_eos": True}
    headers = {"X-Request-ID": "to-be-cancelled"}
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False
    ) as response:
        lines = response.iter_lines()
        next(lines)
        listed = appliance("requests", "list", "--url", server.url, state_dir=server.state_dir)
        assert "chatcmpl-" in listed.stdout
        cancelled = appliance("requests", "cancel", "to-be-cancelled", "--url", server.url, state_dir=server.state_dir)
        assert cancelled.stdout == "cancelled to-be-cancelled\n"
        assert '"code":"request_cancelled"' in [line for line in lines if line][-1]
    missing = appliance("requests", "cancel", "nobody", "--url", server.url, state_dir=server.state_dir)
    assert (missing.returncode, missing.stderr) == (1, "error: no request 'nobody' waits or runs\n")


def test_a_server_that_drains_is_not_ready_and_takes_nothing_new() -> None:
    with start_server() as server, httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        assert http.get("/health/ready").status_code == 200  # the connection stays open
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "ignore_eos": True, "max_tokens": 100}
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json=body, timeout=60, trust_env=False
        ) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert server.process.wait(20) == 0


def test_the_version(tmp_path: Path) -> None:
    import appliance as package

    result = appliance("--version", state_dir=tmp_path)
    assert result.stdout == f"appliance {package.__version__}\n"
