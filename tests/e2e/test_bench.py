"""`harness bench` against a server that is up."""

import contextlib
import json
import socket
import threading


def test_an_endpoint_is_measured_without_a_profile(harness, paced, summary_of):
    done = harness(
        "bench",
        "--url",
        f"{paced.url}/v1",
        "--concurrency",
        "1,2",
        "--isl",
        "64",
        "--osl",
        "8",
        "--duration",
        "2s",
        "--slo",
        "ttft=1s",
        "--no-calibrate",
    )
    assert done.returncode == 0, done.stderr
    (run,) = harness.runs()
    summary = summary_of(run)
    assert [stage["name"] for stage in summary["stages"]] == ["c1", "c2"]
    assert summary["metrics"]["mean_output_tok"]["value"] == 8
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["profile"]["traffic"]["api"] == "chat"
    saved = (run / "profile.yaml").read_text()
    assert saved.startswith("# Made by: ")
    again = harness("plan", run / "profile.yaml", "--json")
    assert again.returncode == 0, again.stderr


def test_a_dry_run_prints_the_profile_and_sends_no_load(harness, paced):
    done = harness("bench", "--url", paced.url, "--dry-run")
    assert done.returncode == 0
    assert "kind: attach" in done.stdout
    assert harness.runs() == []


SECRET = "s3cret-of-the-gateway"
OPEN = """\
purpose: smoke
server: {{kind: attach, urls: ["{url}"]}}
quality: {{check: true, max_output_tok: 4}}
traffic:
  headers: {{X-Gateway-Key: "env:GATEWAY_KEY"}}
  workload: {{kind: chat, system_tok: 0, user_tok: 20, output_tok: 8, turns: 1, context_limit_tok: 500}}
  load: [{{kind: concurrency, concurrency: 2, sessions: 6}}]
"""


@contextlib.contextmanager
def gateway(url, sent):
    """A port in front of a server that keeps what clients send, by connection."""
    upstream = int(url.rsplit(":", 1)[1])
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source, target, keep=None):
        while data := source.recv(65536):
            if keep is not None:
                keep.append(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def serve(client):
        parts = []
        sent.append(parts)
        with client, socket.create_connection(("127.0.0.1", upstream)) as server:
            up = threading.Thread(target=pump, args=(client, server, parts), daemon=True)
            up.start()
            with contextlib.suppress(OSError):
                pump(server, client)
            up.join(5)

    def accept():
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    accepting.join(5)


def test_a_profile_without_model_and_api_runs_behind_a_gateway(harness, paced, summary_of):
    connections = []
    profile = harness.folder / "open.yaml"
    with gateway(paced.url, connections) as url:
        profile.write_text(OPEN.format(url=url))
        key = {"GATEWAY_KEY": SECRET}
        planned = json.loads(harness("plan", profile, "--json", env=key).stdout)
        checked = harness("check", profile, env=key)
        done = harness("run", profile, env=key)
    assert checked.returncode == 0, checked.stdout
    assert done.returncode == 0, done.stderr
    (run,) = harness.runs()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["profile"]["traffic"]["api"] == "chat" == planned["api"]
    model = manifest["profile"]["model"]
    assert model["id"] == model["served_name"] == manifest["endpoints"][0]["model"]
    assert manifest["model"]["model_id"] == planned["model"] == model["id"]
    assert manifest["plan_sha256"] == planned["plan_sha256"]
    assert len(manifest["plan"]["choices"]) == 2
    assert manifest["profile"]["traffic"]["headers"] == {"X-Gateway-Key": "env:GATEWAY_KEY"}
    assert summary_of(run)["stages"]

    texts = [b"".join(parts).lower() for parts in connections]
    posts = sum(text.count(b"post /v1/") for text in texts)
    keyed = sum(text.count(f"x-gateway-key: {SECRET}\r\n".encode()) for text in texts)
    scrapes = sum(text.count(b"get /metrics") for text in texts)
    requests = posts + sum(text.count(b"get /") for text in texts)
    assert posts >= 6 + 2 * 3  # the load; probes of plan, check and run
    assert posts <= keyed <= requests
    assert keyed >= requests - scrapes
    for path in run.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_an_option_that_is_wrong_is_named(harness, paced):
    done = harness("bench", "--url", paced.url, "--isl", "99999999")
    assert done.returncode != 0
    done = harness("bench", "--url", paced.url, "--api", "soap")
    assert "--api" in done.stderr
    done = harness("bench", "--url", "http://127.0.0.1:9")
    assert "--url" in done.stderr
    done = harness("bench", "--url", paced.url, "--api-key-env", "NO_SUCH_KEY")
    assert "--api-key-env" in done.stderr
    assert harness.runs() == []
