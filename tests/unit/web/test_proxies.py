"""Whose word counts: the client's address, scheme and host, and the request's number, with and without proxies."""

import re
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatoba.config.values import private_networks
from hatoba.web.messages import Request
from hatoba.web.proxies import Proxies

PROXY = "10.0.0.2"
STRANGER = "203.0.113.9"


@pytest.fixture
def proxies():
    return Proxies(private_networks())


def request(peer, *headers, scheme="http"):
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    client = None if peer is None else (peer, 4711)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": sent, "client": client, "scheme": scheme}
    return Request(scope, None, 1)


def forwarded(peer, *values):
    return request(peer, *(("x-forwarded-for", value) for value in values))


class TestClient:
    @pytest.mark.parametrize(
        ("peer", "values", "client"),
        [
            (STRANGER, [], STRANGER),
            (PROXY, [], PROXY),
            (None, [], "-"),
            # At a socket in the file system: as near as loopback.
            (None, ["198.51.100.1"], "198.51.100.1"),
            ("", ["198.51.100.1"], "198.51.100.1"),
            ("::ffff:203.0.113.9", [], STRANGER),
            ("::ffff:10.0.0.2", ["198.51.100.1"], "198.51.100.1"),
            # Only a proxy may say it.
            (STRANGER, ["198.51.100.1"], STRANGER),
            (PROXY, ["198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
            ("::1", ["2001:db8::1"], "2001:db8::1"),
            ("fd00::5", ["2001:DB8:0::1"], "2001:db8::1"),
            # What stands left of the first stranger is the stranger's word.
            (PROXY, ["8.8.8.8, 198.51.100.1"], "198.51.100.1"),
            (PROXY, ["10.9.9.9, 198.51.100.1"], "198.51.100.1"),
            (PROXY, ["8.8.8.8, 198.51.100.1, 10.0.0.3 , 172.16.0.1"], "198.51.100.1"),
            (PROXY, ["8.8.8.8", "198.51.100.1", "192.168.1.1,10.0.0.3"], "198.51.100.1"),
            (PROXY, ["192.168.7.7, 10.0.0.3"], "192.168.7.7"),
            # Ports, brackets.
            (PROXY, ["198.51.100.1:5555"], "198.51.100.1"),
            (PROXY, ["[2001:db8::1]:5555"], "2001:db8::1"),
            (PROXY, ["[2001:db8::1]"], "2001:db8::1"),
            (PROXY, ["::ffff:198.51.100.1"], "198.51.100.1"),
            # What is no address ends the search.
            (PROXY, [""], PROXY),
            (PROXY, ["unknown"], PROXY),
            (PROXY, ["198.51.100.1, unknown, 10.0.0.3"], "10.0.0.3"),
            (PROXY, ["198.51.100.1,, 10.0.0.3"], "10.0.0.3"),
            (PROXY, ["1" * 100_000], PROXY),
            (PROXY, ["198.51.100.1\n8"], PROXY),
            (PROXY, ["fe80::1%\x01"], PROXY),
            (PROXY, ["\xe9"], PROXY),
        ],
    )
    def test_address(self, proxies, peer, values, client):
        assert proxies.client(forwarded(peer, *values)) == client

    def test_nobody_is_believed_when_no_proxy_is_named(self):
        assert Proxies([]).client(forwarded("127.0.0.1", "198.51.100.1")) == "127.0.0.1"

    def test_a_proxy_of_ones_own(self):
        proxies = Proxies([ip_network("203.0.113.9/32")])
        assert proxies.client(forwarded(STRANGER, "10.0.0.7")) == "10.0.0.7"
        assert proxies.client(forwarded("203.0.113.8", "10.0.0.7")) == "203.0.113.8"

    def test_a_chain_is_read_up_to_a_length_that_no_real_one_has(self, proxies):
        """A header has room for 40,000 addresses; with all of them trusted it was read for a third of a second."""
        chain = ["198.51.100.1", *(f"10.0.0.{number}" for number in range(100, 131))]
        assert proxies.client(forwarded(PROXY, ", ".join(chain))) == "198.51.100.1"
        chain.insert(1, "10.0.0.99")
        assert proxies.client(forwarded(PROXY, ", ".join(chain))) == "10.0.0.99"
        assert proxies.client(forwarded(PROXY, *chain)) == "10.0.0.99"

    def test_a_peer_is_looked_up_once(self, proxies):
        for _ in range(5):
            proxies.client(forwarded(PROXY, "198.51.100.1"))
        assert proxies._trusts.cache_info().misses == 1


class TestForwardedFor:
    """RFC 7239, where no X-Forwarded-For is."""

    @pytest.mark.parametrize(
        ("peer", "values", "client"),
        [
            (PROXY, ["for=198.51.100.1"], "198.51.100.1"),
            (PROXY, ["For=198.51.100.1;proto=https;by=10.0.0.2"], "198.51.100.1"),
            (PROXY, ['for="198.51.100.1:4711"'], "198.51.100.1"),
            (PROXY, ['for="[2001:db8:cafe::17]:4711"'], "2001:db8:cafe::17"),
            (PROXY, ["for=198.51.100.1:4711"], "198.51.100.1"),
            (None, ["for=198.51.100.1"], "198.51.100.1"),
            (PROXY, ["for=8.8.8.8, for=198.51.100.1, for=10.0.0.3"], "198.51.100.1"),
            (PROXY, ["for=8.8.8.8", 'for=198.51.100.1;host="a, b"', "for=10.0.0.3"], "198.51.100.1"),
            (PROXY, ["for=8.8.8.8, proto=https"], PROXY),
            (PROXY, ["for=8.8.8.8, for=unknown"], PROXY),
            (PROXY, ["for=_hidden"], PROXY),
            (PROXY, ['for=8.8.8.8, for="198.51.100.1'], PROXY),
            (PROXY, ["for=198.51.100.1 for=8.8.8.8"], PROXY),
            (PROXY, ["for=198.51.100.1;" * 2000], PROXY),
            (PROXY, [""], PROXY),
            (STRANGER, ["for=198.51.100.1"], STRANGER),
        ],
    )
    def test_client(self, proxies, peer, values, client):
        assert proxies.client(request(peer, *(("forwarded", value) for value in values))) == client

    def test_x_forwarded_for_goes_first(self, proxies):
        """A proxy that writes it passes on the client's Forwarded unread."""
        sent = (("forwarded", "for=8.8.8.8"), ("x-forwarded-for", "198.51.100.1"))
        assert proxies.client(request(PROXY, *sent)) == "198.51.100.1"
        assert proxies.client(request(PROXY, ("forwarded", "for=8.8.8.8"), ("x-forwarded-for", "unknown"))) == PROXY


class TestOrigin:
    @pytest.mark.parametrize(
        ("peer", "headers", "origin"),
        [
            (STRANGER, {"x-forwarded-proto": "https", "x-forwarded-host": "evil.test"}, "http://asked.test"),
            (STRANGER, {"forwarded": "proto=https;host=evil.test", "x-forwarded-port": "1"}, "http://asked.test"),
            (None, {"x-forwarded-proto": "https"}, "https://asked.test"),
            (PROXY, {}, "http://asked.test"),
            (PROXY, {"x-forwarded-proto": "https"}, "https://asked.test"),
            (PROXY, {"x-forwarded-proto": "HTTPS, http"}, "https://asked.test"),
            (PROXY, {"x-forwarded-host": "shown.test:8443 , inner"}, "http://shown.test:8443"),
            (PROXY, {"x-forwarded-host": "[2001:db8::1]:80"}, "http://[2001:db8::1]:80"),
            # Forwarded goes first, each part by itself.
            (PROXY, {"forwarded": "proto=https;host=shown.test"}, "https://shown.test"),
            (PROXY, {"forwarded": 'Host="shown.test:8443"; Proto=HTTPS;for=_x'}, "https://shown.test:8443"),
            (PROXY, {"forwarded": 'host="[2001:db8::1]:8443"'}, "http://[2001:db8::1]:8443"),
            (PROXY, {"forwarded": "host=shown.test:8443"}, "http://shown.test:8443"),
            (PROXY, {"forwarded": 'host="sho\\wn.test"'}, "http://shown.test"),
            (PROXY, {"forwarded": "proto=https;host=shown.test, proto=http;host=inner"}, "https://shown.test"),
            (PROXY, {"forwarded": "host=shown.test", "x-forwarded-host": "other.test"}, "http://shown.test"),
            (PROXY, {"forwarded": "for=1.2.3.4", "x-forwarded-proto": "https"}, "https://asked.test"),
            (PROXY, {"forwarded": "proto=https", "x-forwarded-host": "shown.test"}, "https://shown.test"),
            (PROXY, {"forwarded": "proto=https;proto=http"}, "https://asked.test"),
            # What a name has lost: NGINX's $host is without a port.
            (PROXY, {"x-forwarded-port": "8443", "x-forwarded-proto": "https"}, "https://asked.test:8443"),
            (PROXY, {"x-forwarded-port": "443, 80", "x-forwarded-proto": "https"}, "https://asked.test"),
            (PROXY, {"x-forwarded-port": "80"}, "http://asked.test"),
            # TLS ends in front of the proxy that wrote the port.
            (PROXY, {"x-forwarded-port": "80", "x-forwarded-proto": "https"}, "https://asked.test"),
            (PROXY, {"x-forwarded-host": "shown.test", "x-forwarded-port": "81"}, "http://shown.test:81"),
            (PROXY, {"x-forwarded-host": "shown.test:80", "x-forwarded-port": "81"}, "http://shown.test:80"),
            (PROXY, {"x-forwarded-host": "[2001:db8::1]", "x-forwarded-port": "81"}, "http://[2001:db8::1]:81"),
            (PROXY, {"forwarded": "host=shown.test", "x-forwarded-port": "81"}, "http://shown.test"),
            # What is no scheme, host or port counts for nothing.
            (PROXY, {"x-forwarded-proto": "javascript", "x-forwarded-host": "a/b"}, "http://asked.test"),
            (PROXY, {"forwarded": "proto=javascript;host=user@evil.test"}, "http://asked.test"),
            (PROXY, {"x-forwarded-host": "a\r\nset-cookie: b"}, "http://asked.test"),
            (PROXY, {"forwarded": 'host="a\r\nset-cookie: b"'}, "http://asked.test"),
            (PROXY, {"forwarded": 'host="shown.test;proto=https'}, "http://asked.test"),
            (PROXY, {"forwarded": "host=shown.test garbage"}, "http://asked.test"),
            (PROXY, {"x-forwarded-host": "shown.test:0"}, "http://asked.test"),
            (PROXY, {"x-forwarded-host": "shown.test:65536"}, "http://asked.test"),
            (PROXY, {"x-forwarded-host": "a" * 256}, "http://asked.test"),
            (PROXY, {"x-forwarded-port": "8443/evil"}, "http://asked.test"),
            (PROXY, {"x-forwarded-port": "99999"}, "http://asked.test"),
        ],
    )
    def test_scheme_and_host(self, proxies, peer, headers, origin):
        assert proxies.origin(request(peer, ("host", "asked.test"), *headers.items())) == origin

    def test_the_port_in_host(self, proxies):
        assert proxies.origin(request(STRANGER, ("host", "asked.test:5443"))) == "http://asked.test:5443"
        sent = (("host", "asked.test:5443"), ("x-forwarded-port", "81"), ("x-forwarded-proto", "https"))
        assert proxies.origin(request(PROXY, *sent)) == "https://asked.test:5443"

    def test_the_first_of_several_lines(self, proxies):
        sent = (("x-forwarded-proto", "https"), ("x-forwarded-proto", "http"))
        assert proxies.origin(request(PROXY, ("host", "a"), *sent)) == "https://a"

    def test_the_scheme_of_the_connection(self, proxies):
        assert proxies.origin(request(STRANGER, ("host", "a"), scheme="https")) == "https://a"

    @pytest.mark.parametrize(
        "host", ["", "a b", "a/../b", "user@a", "a?b", "a" * 256, "[::1", "a:b", "a:999999", "a\n"]
    )
    def test_without_a_usable_host_there_is_none(self, proxies, host):
        assert proxies.origin(request(STRANGER, ("host", host))) == ""

    @given(*[st.text(st.characters(max_codepoint=255), max_size=40)] * 4)
    def test_nothing_hostile_comes_through(self, host, forwarded, named, port):
        sent = (
            ("host", host),
            ("forwarded", f"host={forwarded}"),
            ("x-forwarded-host", named),
            ("x-forwarded-port", port),
        )
        assert re.fullmatch(
            r"(http://([\w.~-]+|\[[0-9a-fA-F:.]+\])(:\d+)?)?",
            Proxies(private_networks()).origin(request(PROXY, *sent)),
            re.ASCII,
        )


class TestPrefix:
    @pytest.mark.parametrize(
        ("peer", "lines", "prefix"),
        [
            (PROXY, [], ""),
            (PROXY, ["/registry"], "/registry"),
            (PROXY, ["/registry/"], "/registry"),
            (PROXY, ["/a/b.c/%20x"], "/a/b.c/%20x"),
            (PROXY, ["/"], ""),
            # Two proxies took away a piece each.
            (PROXY, ["/a, /b"], "/a/b"),
            (PROXY, ["/a", "/b/"], "/a/b"),
            (STRANGER, ["/registry"], ""),
            (PROXY, ["//evil.test"], ""),
            (PROXY, ["/a,//evil.test"], ""),
            (PROXY, ["registry"], ""),
            (PROXY, ["https://evil.test/"], ""),
            (PROXY, ["/a b"], ""),
            (PROXY, ["/a\r\nset-cookie: b"], ""),
            (PROXY, ["/a?b"], ""),
            (PROXY, ["/a#b"], ""),
            (PROXY, ["/\xe9"], ""),
            (PROXY, ["/" + "a" * 255], ""),
        ],
    )
    def test_prefix(self, proxies, peer, lines, prefix):
        assert proxies.prefix(request(peer, *(("x-forwarded-prefix", line) for line in lines))) == prefix


class TestRequestId:
    @pytest.mark.parametrize(
        ("peer", "sent", "number"),
        [
            (PROXY, "7b5a-91", "7b5a-91"),
            (PROXY, "a" * 128, "a" * 128),
            (STRANGER, "7b5a-91", None),
            (None, "7b5a-91", "7b5a-91"),
            (PROXY, "a" * 129, None),
            (PROXY, "", None),
            (PROXY, "a b", None),
            (PROXY, "a\n", None),
            (PROXY, "\xe9", None),
        ],
    )
    def test_number(self, proxies, peer, sent, number):
        assert proxies.request_id(request(peer, ("x-request-id", sent))) == number

    def test_none_was_sent(self, proxies):
        assert proxies.request_id(request(PROXY)) is None
