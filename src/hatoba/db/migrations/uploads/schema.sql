-- The database uploads as all migrations leave it; read this, not them. A test demands that both are the same.
-- Upload sessions. digest is the digest of the bytes so far, null when a worker without the hash state went on.

CREATE TABLE uploads (
  id TEXT PRIMARY KEY,
  repository TEXT NOT NULL,
  "offset" INTEGER NOT NULL CHECK ("offset" >= 0),
  algorithm TEXT NOT NULL,
  digest TEXT,
  started_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX uploads_updated ON uploads (updated_at);
