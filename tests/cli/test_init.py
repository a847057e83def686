"""`harness profiles` and `harness init`."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from harness.cli import app
from harness.commands import bench, profiles
from harness.core.records import Api
from harness.profile.load import load_profile, load_profile_text
from harness.server.detect import Detected

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "loadprofiles").glob("*.yaml"))


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_profiles_are_listed_with_one_line_each():
    lines = invoke("profiles").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [name, load_profile(ROOT / "loadprofiles" / f"{name}.yaml").purpose] for name in NAMES
    ]


def test_profiles_as_json():
    shown = json.loads(invoke("profiles", "--json").stdout)
    assert [one["name"] for one in shown] == NAMES
    assert all(set(one) == {"name", "purpose", "description"} for one in shown)
    assert all(one["description"] for one in shown)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_the_profile_with_its_comments_and_a_schema_that_exists(name):
    done = invoke("init", "--template", name, "mine.yaml")
    assert done.exit_code == 0, done.output
    written, original = Path("mine.yaml").read_text(), ROOT / "loadprofiles" / f"{name}.yaml"
    schema = re.match(r"# yaml-language-server: \$schema=(.+)", written)[1]
    assert json.loads(Path(schema).read_text())["type"] == "object"
    assert written.splitlines()[1:] == original.read_text().splitlines()[1:]
    assert load_profile(Path("mine.yaml")).traffic == load_profile(original).traffic


def test_the_default_is_a_profile_for_any_machine():
    assert invoke("init").stdout == "profile.yaml\n"
    assert load_profile(Path("profile.yaml")).purpose == "smoke"


def test_a_file_is_replaced_only_by_force():
    path = Path("mine.yaml")
    path.write_text("mine")
    done = invoke("init", path)
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert path.read_text() == "mine"
    assert invoke("init", path, "--force").exit_code == 0
    assert load_profile(path)


def test_a_dangling_link_is_not_followed_without_force():
    Path("mine.yaml").symlink_to("elsewhere.yaml")
    assert invoke("init", "mine.yaml").exit_code == 2
    assert not Path("elsewhere.yaml").exists()


@pytest.mark.parametrize("where", ["no/such/folder/mine.yaml", "folder"])
def test_a_file_that_cannot_be_written(where):
    Path("folder").mkdir()
    done = invoke("init", where, "--force")
    assert done.exit_code == 2
    assert where in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("gpu-chatt", ["gpu-chat"]),
        ("cpu-smoke.yaml", ["cpu-smoke"]),
        *((name, NAMES) for name in ("../README", "/etc/passwd", "")),
    ],
)
def test_an_unknown_template(name, suggested):
    done = invoke("init", "--template", name)
    assert done.exit_code == 2
    step = done.stderr.partition("next step: ")[2]
    assert set(suggested) <= set(re.findall(r"[\w-]+", step))
    assert not Path("profile.yaml").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "http://h:1", "--template", "gpu-chat"),
        ("--model", "m"),
        ("--api-key-env", "KEY"),
        ("--ca-file", __file__),
        ("--header", "a=b"),
        ("--url", "http://127.0.0.1:9", "--ca-file", "/no/such/file"),
        ("--url", "http://127.0.0.1:9", "--header", "a"),
        ("--url", "h:8000"),
        ("--url", "http://127.0.0.1:9", "--api-key-env", "NO_SUCH_VARIABLE"),
    ],
)
def test_options_that_do_not_fit(arguments):
    done = invoke("init", *arguments)
    assert done.exit_code == 2
    assert not Path("profile.yaml").exists()


def test_no_server_writes_nothing():
    done = invoke("init", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 4
    assert not Path("profile.yaml").exists()


@pytest.fixture
def endpoint():
    """A server of one model with an odd name and chat completions."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def _send(self, body):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            if self.path.startswith("/tenant") and self.headers["X-Tenant"] != "ours":
                self.send_error(401)
                return
            self._send({"data": [{"id": "a: 'm' # ü", "max_model_len": 4096}]})

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            choice = {"message": {"content": "a"}, "finish_reason": "length"}
            self._send({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_endpoint_is_asked_for_its_model_and_api(endpoint, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-value")
    done = invoke("init", "--url", f"{endpoint}/v1", "mine.yaml", "--api-key-env", "MY_KEY")
    assert done.exit_code == 0, done.output
    profile = load_profile(Path("mine.yaml"))
    assert profile.server.urls == (endpoint,)
    assert (profile.model.served_name, profile.model.max_context_tok) == ("a: 'm' # ü", 4096)
    assert (profile.traffic.api, profile.traffic.output_length) == ("chat", "forced")
    assert profile.server.api_key_env == "MY_KEY"
    assert "secret-value" not in Path("mine.yaml").read_text() + done.output


def test_headers_reach_the_endpoint_and_the_profile(endpoint, monkeypatch):
    monkeypatch.setenv("TENANT", "ours")
    assert invoke("init", "--url", f"{endpoint}/tenant").exit_code == 4
    done = invoke("init", "--url", f"{endpoint}/tenant", "--header", "X-Tenant=env:TENANT")
    assert done.exit_code == 0, done.output
    traffic = load_profile(Path("profile.yaml")).traffic
    assert traffic.headers == {"X-Tenant": "env:TENANT"}
    assert traffic.tls.ca_file is None


def test_a_certificate_authority_reaches_the_profile(endpoint):
    Path("our ca.pem").touch()
    assert invoke("init", "--url", endpoint, "--ca-file", "our ca.pem").exit_code == 0
    traffic = load_profile(Path("profile.yaml")).traffic
    assert traffic.tls.ca_file == str(Path("our ca.pem").absolute())
    assert traffic.headers == {}


@pytest.mark.parametrize("limit", [None, 8192])
@pytest.mark.parametrize("api", Api)
def test_the_text_is_valid_and_so_is_every_line_that_is_commented_out(api, limit):
    probed = Detected("m", limit, api, forced=api in (Api.CHAT, Api.COMPLETIONS))
    text = profiles.endpoint_text("http://h:8000", probed)
    load_profile_text(text)
    used = re.sub(r"^( *(?:- )?)# (?=[\w-]+: |- \{)", r"\1", text, flags=re.MULTILINE)
    assert "\nprice: " in used
    used = re.sub(r"^yaml-language-server.*\n", "", used, flags=re.MULTILINE)
    profile = load_profile_text(used)
    assert profile.server.gpu_count == 8
    assert profile.repeats == 5
    assert profile.traffic.headers == {"X-Tenant": "a"}
    assert profile.traffic.tls.ca_file == "ca.pem"
    assert profile.price.usd_per_gpu_h == 2.5
    assert [stage.name for stage in profile.traffic.load] == ["c1", "c8", "c32", "r2"]


@pytest.mark.parametrize(
    "name",
    ["a\u2028b", "a\x85b", "a\tb", "a\x7f", "😀", 'a\\b"c', "\x1b[31m", "#", "{x}", "a " * 200],
)
def test_odd_names_of_models_are_kept(name):
    text = profiles.endpoint_text("http://h:8000", Detected(name, None, Api.CHAT, forced=True))
    assert load_profile_text(text).model.served_name == name


def test_the_workload_is_that_of_bench():
    probed = Detected("m", 8192, Api.CHAT, forced=True)
    ours = YAML(typ="safe").load(profiles.endpoint_text("http://h:8000", probed))
    its = bench.document(bench.BenchOptions(("http://h:8000",)), probed)
    limit = its["traffic"]["workload"].pop("context_limit_tok")
    assert ours["traffic"]["workload"].pop("context_limit_tok") >= limit - 100
    assert ours["traffic"]["workload"] == its["traffic"]["workload"]
    assert ours["model"] == its["model"]
    assert ours["server"] == its["server"]
