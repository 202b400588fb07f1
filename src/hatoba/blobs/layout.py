"""The keys of distribution's on-disk layout, one function per key. Docker's registry reads the same tree.

docker/registry/v2/
  blobs/<alg>/<hex[0:2]>/<hex>/data                               blob()
  repositories/<name>/
    _layers/<alg>/<hex>/link                                      layer_link()
    _manifests/revisions/<alg>/<hex>/link                         revision_link()
    _manifests/tags/<tag>/current/link                            tag_link()
    _manifests/tags/<tag>/index/<alg>/<hex>/link                  tag_index_link()
    _uploads/<id>/data   _uploads/<id>/startedat                  upload(), upload_started_at()
"""

from __future__ import annotations

from hatoba.oci.digest import Digest

_ROOT = "docker/registry/v2"
REPOSITORIES = f"{_ROOT}/repositories"
BLOBS = f"{_ROOT}/blobs"


def blob(digest: Digest) -> str:
    """Where the bytes of a layer, config or manifest lie."""
    return f"{BLOBS}/{digest.algorithm}/{digest.encoded[:2]}/{digest.encoded}/data"


def repository(name: str) -> str:
    """A repository's folder."""
    return f"{REPOSITORIES}/{name}"


def layers(name: str) -> str:
    """The folder that makes Docker's registry 2.8 see a repository."""
    return f"{repository(name)}/_layers"


def manifests(name: str) -> str:
    """The folder that makes Docker's registry 3 see a repository."""
    return f"{repository(name)}/_manifests"


def tags(name: str) -> str:
    """The folder of a repository's tags."""
    return f"{manifests(name)}/tags"


def layer_link(name: str, digest: Digest) -> str:
    """Says that the repository may read this blob."""
    return f"{layers(name)}/{digest.algorithm}/{digest.encoded}/link"


def revision_link(name: str, digest: Digest) -> str:
    """Says that the repository holds this manifest."""
    return f"{manifests(name)}/revisions/{digest.algorithm}/{digest.encoded}/link"


def tag(name: str, tag: str) -> str:
    """A tag's folder."""
    return f"{tags(name)}/{tag}"


def tag_link(name: str, tag_name: str) -> str:
    """Holds the digest that the tag names now."""
    return f"{tag(name, tag_name)}/current/link"


def tag_index_link(name: str, tag_name: str, digest: Digest) -> str:
    """Says that the tag named this digest once."""
    return f"{tag(name, tag_name)}/index/{digest.algorithm}/{digest.encoded}/link"


def uploads(name: str) -> str:
    """The folder of a repository's upload sessions."""
    return f"{repository(name)}/_uploads"


def upload_folder(name: str, upload_id: str) -> str:
    """A session's folder."""
    return f"{uploads(name)}/{upload_id}"


def upload(name: str, upload_id: str) -> str:
    """The bytes an upload session has so far."""
    return f"{upload_folder(name, upload_id)}/data"


def upload_started_at(name: str, upload_id: str) -> str:
    """When the session began, RFC 3339; Docker's registry purges by it."""
    return f"{upload_folder(name, upload_id)}/startedat"
