"""Whatever is malformed: the right status and code by an oracle of its own (tests/fuzz), and never a 5xx.

Hypothesis makes what the tables of the other files do not think of, and shrinks what it finds.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from fuzz import oracle, vocabulary

together = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
NAME = "x/app"
NO_SESSION = f"/v2/{NAME}/blobs/uploads/00000000-0000-0000-0000-000000000000"

# Near the grammar, where mistakes are, rather than anywhere.
components = st.text("ab01._-AZ", max_size=8) | st.sampled_from(["..", "a__b", "a___b", "a--b", "blobs", "uploads", ""])
names = st.lists(components, min_size=1, max_size=5).map("/".join) | st.text(max_size=20) | st.text("a/", max_size=600)
tags = st.text("abAZ09._-", max_size=140) | st.text(max_size=10)
hexes = st.integers(62, 66).flatmap(lambda n: st.text("0123456789abcdefAFg", min_size=n, max_size=n)) | st.sampled_from(
    ["A" * 64, "a" * 64, "a" * 63 + "F", "g" * 64, "a" * 128, "a" * 127 + "A", "\u0661" * 64]
)
algorithms = st.sampled_from(["sha256", "sha512", "SHA256", "md5", "sha256+x", "", "a..b", "sha-3"]) | st.text(
    "ash256+._-", max_size=9
)
registered = st.builds("{}:{}".format, st.sampled_from(["sha256", "sha512"]), hexes)
digests = registered | st.builds("{}:{}".format, algorithms, hexes | st.text(max_size=10)) | st.text(max_size=80)
counts = (
    st.integers(-(10**30), 10**30).map(str) | st.text("0123456789-+. _x\u0661\uff11", max_size=6) | st.text(max_size=5)
)
numbers = st.integers(0, 2000).map(str) | st.sampled_from(
    ["", "9" * 18, "9" * 19, "9" * 400, "-1", "\u0661", "+1", "1_0", "0x1"]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


@pytest.fixture
async def wire(opened):
    """hatoba alone: the oracle knows what it chose where the spec leaves a choice."""
    return await opened()


def escaped(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


async def judged(wire, method: str, path: str, **options) -> httpx.Response:
    """Ask, and compare with the oracle."""
    target = httpx.Request(method, f"http://x{path}").url.raw_path
    wanted, _ = oracle.expected(method, target, options.pop("sent", []), "right", impossible=True)
    answer = await wire(method, path, **options)
    assert wanted.statuses is None or answer.status_code in wanted.statuses, (answer.status_code, wanted)
    if wanted.codes and method != "HEAD" and answer.status_code >= 400:
        assert {error["code"] for error in answer.json()["errors"]} <= wanted.codes
    return answer


@together
@given(name=names, method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"]))
@example(name="a" * 255, method="GET")
@example(name="a" * 256, method="GET")
@example(name="a/" * 127 + "a", method="POST")
@example(name="\ud800", method="GET")
@example(name="a\x00", method="PUT")
@pytest.mark.parametrize(
    "suffix", ["tags/list", "manifests/v1", f"blobs/{vocabulary.digest_of(b'')}", "blobs/uploads/"]
)
async def test_names(wire, suffix, name, method):
    whole = not suffix.startswith("blobs/uploads") or method != "POST"  # else a session is begun: right, and slow
    assume(whole or not vocabulary.is_name(name))
    await judged(
        wire, method, f"/v2/{escaped(name)}/{suffix}", content=b"{" if method in {"PUT", "PATCH", "POST"} else b""
    )


@together
@given(tag=tags, method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]))
@example(tag="a" * 128, method="PUT")
@example(tag="a" * 129, method="PUT")
@example(tag="a" * 129, method="GET")
async def test_tags(wire, tag, method):
    await judged(wire, method, f"/v2/{NAME}/manifests/{escaped(tag)}", content=b"{" if method == "PUT" else b"")


@together
@given(tags=st.lists(tags, max_size=4) | st.integers(95, 105).map(lambda number: ["t"] * number))
async def test_tags_of_a_query(wire, tags):
    query = "&".join(f"tag={escaped(tag)}" for tag in tags)
    await judged(wire, "PUT", f"/v2/{NAME}/manifests/{vocabulary.digest_of(b'{')}?{query}", content=b"{")


@together
@given(digest=digests)
@example(digest="sha256:" + "A" * 64)
@example(digest="sha256:" + "a" * 64 + "\n")
@example(digest="sha256:" + "\u0661" * 64)
@example(digest="x:" + "a" * 253)
@example(digest="x:" + "a" * 254)
async def test_digests(wire, digest):
    encoded = escaped(digest)
    for method, path in [
        ("GET", f"/v2/{NAME}/blobs/{encoded}"),
        ("HEAD", f"/v2/{NAME}/blobs/{encoded}"),
        ("DELETE", f"/v2/{NAME}/blobs/{encoded}"),
        ("GET", f"/v2/{NAME}/referrers/{encoded}"),
        ("PUT", f"/v2/{NAME}/manifests/{encoded}"),
        ("PUT", f"{NO_SESSION}?digest={encoded}"),
    ]:
        await judged(wire, method, path, content=b"{" if method == "PUT" else b"")
    if not vocabulary.is_digest(digest):
        await judged(wire, "POST", f"/v2/{NAME}/blobs/uploads/?digest={encoded}", content=b"{")


@together
@given(n=counts, last=st.text(max_size=20))
@example(n="\u0661", last="")
@example(n="9" * 5000, last="")
@pytest.mark.parametrize("path", [f"/v2/{NAME}/tags/list", "/v2/_catalog"])
async def test_pages(wire, path, n, last):
    await judged(wire, "GET", f"{path}?n={escaped(n)}&last={escaped(last)}")


def asked_range(text: str, size: int) -> tuple[int, int] | int | None:
    """RFC 9110, 14.2, of a Range's value without `bytes=`: what is to be sent, 416, or None for everything."""
    first, dash, last = text.partition("-")
    if not dash or not all(part == "" or vocabulary.is_count(part) for part in (first, last)) or first == last == "":
        return None
    if first == "":
        return (max(0, size - int(last)), size) if int(last) and size else 416
    end = min(int(last), size - 1) if last else size - 1
    return (int(first), end + 1) if int(first) <= end else 416


@together
@given(first=numbers, last=numbers, junk=st.sampled_from(["", "", "", "x", "-", ",", ",0-0"]))
async def test_ranges(wire, first, last, junk):
    body = b"0123456789" * 100
    digest = vocabulary.digest_of(body)
    await wire("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", content=body)
    sent = f"{first}-{last}{junk}"
    answer = await wire("GET", f"/v2/{NAME}/blobs/{digest}", headers={"range": f"bytes={sent}".encode()})
    wanted = asked_range(sent, len(body))
    if isinstance(wanted, tuple):
        assert (answer.status_code, answer.content) == (206, body[slice(*wanted)])
        assert answer.headers["content-range"] == f"bytes {wanted[0]}-{wanted[1] - 1}/{len(body)}"
    elif wanted is None:
        assert (answer.status_code, answer.content) == (200, body)
    else:
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{len(body)}"


@together
@given(
    first=numbers,
    last=numbers,
    form=st.sampled_from(["{}-{}", "bytes {}-{}/*", "bytes={}-{}", "{} - {}", "{}-{}-", "{}"]),
)
async def test_content_ranges(wire, kit, first, last, form):
    """Of a session that holds 5 bytes; whatever is refused leaves it as it is, and it can be finished."""
    session = await wire.start()
    await wire("PATCH", session, content=b"01234", headers=kit.OCTETS)
    sent = form.format(first, last)
    right = sent in {"5-9", "bytes 5-9/*"}
    answer = await wire("PATCH", session, content=b"56789", headers={"content-range": sent.encode()})
    if right:
        assert answer.status_code == 202
    elif (
        first == "5"
        and vocabulary.is_count(last)
        and int(last) >= 5
        and len(last) < 19
        and form in {"{}-{}", "bytes {}-{}/*"}
    ):
        kit.check_error(answer, 400, "SIZE_INVALID")
    else:
        kit.check_error(answer, 416, "RANGE_INVALID")
    if not right:
        assert (await wire("GET", session)).headers["range"] == "0-4"
        await wire("PATCH", session, content=b"56789", headers=kit.OCTETS)
    answer = await wire("PUT", kit.closing(session, kit.digest_of(b"0123456789")))
    assert answer.status_code == 201


@together
@given(document=anything)
async def test_json_that_is_no_manifest(wire, kit, document):
    body = json.dumps(document).encode()
    answer = await wire("PUT", f"/v2/{NAME}/manifests/v1", content=body)
    kit.check_error(answer, 400, "MANIFEST_INVALID")


@together
@given(
    body=st.binary(max_size=40) | st.integers(500, 200_000).flatmap(lambda n: st.sampled_from([b"[" * n, b'{"a":' * n]))
)
@example(body=b"\xef\xbb\xbf{}")
@example(body=b'{"schemaVersion":' + b"9" * 5000 + b"}")
async def test_bytes_that_are_no_manifest(wire, kit, body):
    kit.check_error(await wire("PUT", f"/v2/{NAME}/manifests/v1", content=body), 400, "MANIFEST_INVALID")


@together
@given(
    field=st.sampled_from(["mediaType", "digest", "size", "urls", "annotations", "platform", "artifactType"]),
    value=anything,
)
async def test_descriptors(wire, kit, field, value):
    """A manifest in order but for one field of a descriptor: it is refused, or was in order after all."""
    config = await wire.push_blob(kit.Content(b"{}", kit.OCI_CONFIG))
    descriptor = {**config.descriptor, field: value}
    body = {"schemaVersion": 2, "mediaType": kit.OCI_MANIFEST, "config": config.descriptor, "layers": [descriptor]}
    answer = await wire("PUT", wire.manifest_path("v1"), content=json.dumps(body).encode())
    if answer.status_code == 201:
        assert field not in {"digest", "urls", "annotations", "platform"} or not isinstance(value, int | float | str)
        assert (await wire("GET", wire.manifest_path("v1"))).json() == json.loads(json.dumps(body))
    else:
        assert answer.status_code == 400
        assert kit.code_of(answer) in {"MANIFEST_INVALID", "MANIFEST_BLOB_UNKNOWN"}


@together
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([
                "accept", "content-type", "if-none-match", "if-range", "range", "x-forwarded-for", "x-forwarded-host",
                "x-forwarded-proto", "x-request-id", "host", "authorization", "content-range", "content-encoding", "te",
            ]),
            st.binary(max_size=40).map(lambda value: value.translate(None, b"\r\n\x00")) | st.just(b"a" * 9000),
        ),
        max_size=5,
    ),
    path=st.sampled_from(
        ["/v2/", "/v2/_catalog", f"/v2/{NAME}/tags/list", f"/v2/{NAME}/manifests/v1", "/healthz", "/v2"]
    ),
)  # fmt: skip
async def test_headers(wire, headers, path):
    """No header makes an answer a failure, nor is a word of it believed."""
    answer = await wire("GET", path, headers=[(name.encode(), value) for name, value in headers])
    assert answer.status_code in {200, 301, 404}
    assert "evil" not in str(answer.headers)


@pytest.mark.parametrize("number", ["", "0", "007", "9" * 400])
def test_the_oracle_of_ranges_can_count(number):
    assert asked_range(f"{number}-", 10) in {(0, 10), (7, 10), 416, None}
    assert asked_range("2-3", 10) == (2, 4)
    assert asked_range("-3", 10) == (7, 10)
    assert asked_range("-0", 10) == 416
    assert asked_range("3-2", 10) == 416
