-- The database metadata as all migrations leave it; read this, not them. A test demands that both are the same.
-- What hatoba must never lose. Times are INTEGER microseconds UTC; text is compared bytewise.

-- size is bytes of the blobs that it may read, pushed_at the time of its last push.
CREATE TABLE repositories (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  tags INTEGER NOT NULL DEFAULT 0,
  manifests INTEGER NOT NULL DEFAULT 0,
  size INTEGER NOT NULL DEFAULT 0,
  pushed_at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX repositories_size ON repositories (size, name) WHERE manifests > 0;
CREATE INDEX repositories_tags ON repositories (tags, name) WHERE manifests > 0;
CREATE INDEX repositories_pushed ON repositories (pushed_at, name) WHERE manifests > 0;
CREATE INDEX repositories_listed ON repositories (name) WHERE manifests > 0;

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

-- natural is the name with its numbers comparable as text; size is what the manifest names, of an index also what those
-- name that it lists.
CREATE TABLE tags (
  repository_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  pushed_at INTEGER NOT NULL,
  pushed_by TEXT,
  natural TEXT NOT NULL DEFAULT '',
  size INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (repository_id, name),
  FOREIGN KEY (repository_id, digest) REFERENCES manifests (repository_id, digest)
) STRICT;
CREATE INDEX tags_digest ON tags (repository_id, digest, name);
CREATE INDEX tags_natural ON tags (repository_id, natural, name);
CREATE INDEX tags_size ON tags (repository_id, size, name);
CREATE INDEX tags_pushed ON tags (repository_id, pushed_at, name);

-- What lists show and sort by is kept in step with the rows that it counts.
CREATE TRIGGER tags_made AFTER INSERT ON tags BEGIN
  UPDATE repositories SET tags = tags + 1 WHERE id = new.repository_id;
END;
CREATE TRIGGER tags_ended AFTER DELETE ON tags BEGIN
  UPDATE repositories SET tags = tags - 1 WHERE id = old.repository_id;
END;
CREATE TRIGGER manifests_made AFTER INSERT ON manifests BEGIN
  UPDATE repositories SET manifests = manifests + 1, pushed_at = max(pushed_at, new.pushed_at)
  WHERE id = new.repository_id;
END;
CREATE TRIGGER manifests_pushed AFTER UPDATE OF pushed_at ON manifests BEGIN
  UPDATE repositories SET pushed_at = max(pushed_at, new.pushed_at) WHERE id = new.repository_id;
END;
CREATE TRIGGER manifests_ended AFTER DELETE ON manifests BEGIN
  UPDATE repositories SET manifests = manifests - 1 WHERE id = old.repository_id;
END;
CREATE TRIGGER blobs_linked AFTER INSERT ON repository_blobs BEGIN
  UPDATE repositories SET size = size + (SELECT b.size FROM blobs AS b WHERE b.digest = new.digest)
  WHERE id = new.repository_id;
END;
CREATE TRIGGER blobs_unlinked AFTER DELETE ON repository_blobs BEGIN
  UPDATE repositories SET size = size - (SELECT b.size FROM blobs AS b WHERE b.digest = old.digest)
  WHERE id = old.repository_id;
END;
CREATE TRIGGER blobs_resized AFTER UPDATE OF size ON blobs WHEN new.size <> old.size BEGIN
  UPDATE repositories SET size = size + new.size - old.size
  WHERE id IN (SELECT l.repository_id FROM repository_blobs AS l WHERE l.digest = new.digest);
END;

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
