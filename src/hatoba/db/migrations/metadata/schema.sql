-- The database metadata as all migrations leave it; read this, not them. A test demands that both are the same.
-- What hatoba must never lose. Times are INTEGER microseconds UTC; text is compared bytewise.

CREATE TABLE repositories (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL
) STRICT;

-- Bytes: where they lie and whether they are there. linked_at is what a collector compares in the same row.
CREATE TABLE blobs (
  digest TEXT PRIMARY KEY,
  key TEXT NOT NULL,
  size INTEGER NOT NULL CHECK (size >= 0),
  state TEXT NOT NULL CHECK (state IN ('ready', 'missing')),
  linked_at INTEGER NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX blobs_missing ON blobs (digest) WHERE state = 'missing';

-- A repository may read this layer or config.
CREATE TABLE repository_blobs (
  repository_id INTEGER NOT NULL REFERENCES repositories (id),
  digest TEXT NOT NULL REFERENCES blobs (digest),
  linked_at INTEGER NOT NULL,
  PRIMARY KEY (repository_id, digest)
) STRICT;
CREATE INDEX repository_blobs_digest ON repository_blobs (digest);

-- Bodies apart: the hot rows of manifests stay small.
CREATE TABLE manifest_bodies (
  digest TEXT PRIMARY KEY REFERENCES blobs (digest),
  body BLOB NOT NULL
) STRICT;

CREATE TABLE manifests (
  repository_id INTEGER NOT NULL REFERENCES repositories (id),
  digest TEXT NOT NULL REFERENCES manifest_bodies (digest),
  media_type TEXT NOT NULL,
  artifact_type TEXT,
  size INTEGER NOT NULL,
  total_bytes INTEGER NOT NULL,
  config_digest TEXT,
  subject TEXT,
  annotations TEXT,
  os TEXT,
  architecture TEXT,
  image_created_at INTEGER,
  pushed_at INTEGER NOT NULL,
  pushed_by TEXT,
  PRIMARY KEY (repository_id, digest)
) STRICT;
CREATE INDEX manifests_subject ON manifests (repository_id, subject, digest) WHERE subject IS NOT NULL;
CREATE INDEX manifests_digest ON manifests (digest);

CREATE TABLE manifest_references (
  repository_id INTEGER NOT NULL,
  manifest TEXT NOT NULL,
  digest TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('config', 'layer', 'manifest')),
  PRIMARY KEY (repository_id, manifest, digest, kind),
  FOREIGN KEY (repository_id, manifest) REFERENCES manifests (repository_id, digest) ON DELETE CASCADE
) STRICT;
CREATE INDEX manifest_references_digest ON manifest_references (repository_id, digest, manifest, kind);

CREATE TABLE tags (
  repository_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  pushed_at INTEGER NOT NULL,
  pushed_by TEXT,
  PRIMARY KEY (repository_id, name),
  FOREIGN KEY (repository_id, digest) REFERENCES manifests (repository_id, digest)
) STRICT;
CREATE INDEX tags_digest ON tags (repository_id, digest, name);

-- Where each tag pointed and when; a null digest is a deletion. Only ever added to.
CREATE TABLE tag_moves (
  id INTEGER PRIMARY KEY,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  digest TEXT,
  actor TEXT,
  moved_at INTEGER NOT NULL
) STRICT;
CREATE INDEX tag_moves_tag ON tag_moves (repository, tag, id);
CREATE TRIGGER tag_moves_no_update BEFORE UPDATE ON tag_moves BEGIN SELECT RAISE(ABORT, 'tag_moves is append-only'); END;
CREATE TRIGGER tag_moves_no_delete BEFORE DELETE ON tag_moves BEGIN SELECT RAISE(ABORT, 'tag_moves is append-only'); END;

-- Link files of Docker's layout that must be written anew: a key, never content.
CREATE TABLE mirror (
  repository TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('layer', 'revision', 'tag')),
  name TEXT NOT NULL,
  generation INTEGER NOT NULL,
  marked_at INTEGER NOT NULL,
  PRIMARY KEY (repository, kind, name)
) STRICT;
CREATE INDEX mirror_marked ON mirror (marked_at);

-- One row: what is known of Docker's tree beside the database. unread: not all of it has been read in yet; unsure: others
-- may have written there since seen_at, up to which links were as the rows say; known: nobody else has.
CREATE TABLE tree (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  state TEXT NOT NULL CHECK (state IN ('unread', 'unsure', 'known')),
  seen_at INTEGER,
  repositories INTEGER NOT NULL,
  repositories_read INTEGER NOT NULL,
  manifests_read INTEGER NOT NULL,
  tags_changed INTEGER NOT NULL
) STRICT;
