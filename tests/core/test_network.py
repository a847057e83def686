"""Which way a request takes: proxies of the environment and of the profile, exceptions,
certificates.
"""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import PreflightError
from harness.core.network import Network, Proxy, is_loopback
from harness.core.records import Endpoint, Severity

FAR = "http://gpu-7.example:8000"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_without_variables_every_way_is_straight():
    assert Network().proxy_for(FAR) is None


@pytest.mark.parametrize(
    ("variable", "url", "taken"),
    [
        ("HTTP_PROXY", FAR, True),
        ("http_proxy", FAR, True),
        ("HTTP_PROXY", "https://gpu-7.example", False),
        ("HTTPS_PROXY", "https://gpu-7.example", True),
        ("HTTPS_PROXY", FAR, False),
        ("ALL_PROXY", FAR, True),
        ("HTTP_PROXY", "http://127.0.0.1:8000", False),
        ("HTTP_PROXY", "http://127.8.8.8:8000", False),
        ("HTTP_PROXY", "http://[::1]:8000", False),
        ("ALL_PROXY", "http://localhost:8000", False),
    ],
)
def test_variables_hold_for_their_scheme_and_never_for_loopback(monkeypatch, variable, url, taken):
    monkeypatch.setenv(variable, "http://proxy.example:3128")
    assert Network().proxy_for(url) == (Proxy("proxy.example", 3128) if taken else None)


@pytest.mark.parametrize(
    ("exceptions", "excepted"),
    [
        ("gpu-7.example", True),
        ("example", True),
        (".example", True),
        ("*.example", True),
        ("*", True),
        ("other.example, gpu-7.example", True),
        ("gpu-7.example:8000", True),
        ("gpu-7.example:9000", False),
        ("u-7.example", False),
        ("7.example", False),
        ("", False),
        (", ,", False),
    ],
)
def test_exceptions_are_names_and_all_below_them(monkeypatch, exceptions, excepted):
    monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", exceptions)
    assert (Network().proxy_for(FAR) is None) == excepted


def test_exceptions_may_be_addresses_and_networks(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,fd00::/8,192.168.1.5")
    for host in ("10.20.30.40", "[fd00::7]", "192.168.1.5"):
        assert Network().proxy_for(f"http://{host}:8000") is None
    for host in ("11.0.0.1", "[fe80::7]", "192.168.1.50"):
        assert Network().proxy_for(f"http://{host}:8000") is not None


def test_a_proxy_of_the_profile_is_used_for_loopback_too():
    """A proxy in the profile holds for loopback too but not for servers that were started."""
    network = Network(proxy="http://127.0.0.1:3128")
    assert network.proxy_for("http://127.0.0.1:8000") == Proxy("127.0.0.1", 3128)
    assert network.proxy_for("http://127.0.0.1:8000", started=True) is None


def test_none_in_the_profile_beats_the_environment(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    assert Network(proxy="none").proxy_for(FAR) is None


def test_a_proxys_password_goes_into_its_header_and_into_no_words(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://user:p%40ss@proxy.example:3128")
    proxy = Network().proxy_for(FAR)
    assert proxy.authorization == "Basic dXNlcjpwQHNz"  # base64 of user:p@ss
    (concern,) = Network().concerns([Endpoint("replica-0", FAR, "m")])
    assert (concern.code, concern.severity) == ("through_proxy", Severity.NOTE)
    for words in (repr(proxy), proxy.name, concern.message):
        assert "p@ss" not in words
        assert "dXNl" not in words


@pytest.mark.parametrize(
    "url",
    ["socks5://user:pw@proxy:1080", "https://proxy:3128", "http://:pw@", "http://proxy:99999"],
)
def test_a_proxy_that_cannot_be_used_is_an_error_without_its_password(monkeypatch, url):
    monkeypatch.setenv("HTTP_PROXY", url)
    with pytest.raises(PreflightError, match="HTTP_PROXY") as caught:
        Network().proxy_for(FAR)
    assert "pw" not in str(caught.value)


@given(
    exceptions=st.text(max_size=40),
    host=st.sampled_from(["gpu-7.example", "10.1.2.3", "[fd00::7]"]),
)
def test_no_list_of_exceptions_fails(exceptions, host):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTP_PROXY", "proxy.example")
        patch.setenv("NO_PROXY", exceptions.replace("\0", "").encode("utf-8", "replace").decode())
        assert Network().proxy_for(f"http://{host}:8000") in (None, Proxy("proxy.example", 80))


def test_loopback_is_more_than_one_address():
    assert all(map(is_loopback, ("localhost", "a.localhost", "127.0.0.1", "127.255.0.9", "::1")))
    assert not any(map(is_loopback, ("", "localhost.example", "128.0.0.1", "::2", "example")))


def test_certificates_are_checked_unless_told_otherwise(tmp_path):
    assert Network().tls_context().verify_mode is ssl.CERT_REQUIRED
    loose = Network(verify=False).tls_context()
    assert (loose.verify_mode, loose.check_hostname) == (ssl.CERT_NONE, False)
    with pytest.raises(PreflightError, match=r"none\.pem"):
        Network(ca_file=str(tmp_path / "none.pem")).tls_context()
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(PreflightError, match=r"junk\.pem"):
        Network(ca_file=str(tmp_path / "junk.pem")).tls_context()
    said = Network(verify=False).concerns(
        [Endpoint("a", "https://x", "m"), Endpoint("b", "http://y", "m")]
    )
    assert [concern.code for concern in said] == ["tls_unverified"]


def test_values_of_headers_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("GATEWAY_KEY", " s3cret ")
    network = Network(headers=(("X-Tenant", "a"), ("X-Key", "env:GATEWAY_KEY")))
    assert network.sent_headers() == {"X-Tenant": "a", "X-Key": "s3cret"}
    assert "s3cret" not in repr(network)


@pytest.mark.parametrize("value", [None, "", "a\nb", "schlüssel"])
def test_a_header_without_a_usable_value_is_refused_and_not_shown(value, monkeypatch):
    monkeypatch.delenv("GATEWAY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("GATEWAY_KEY", value)
    with pytest.raises(PreflightError, match="GATEWAY_KEY") as caught:
        Network(headers=(("X-Key", "env:GATEWAY_KEY"),)).sent_headers()
    assert not value or value not in str(caught.value)
