-- What lists of repositories and tags show and sort by. Triggers keep the counts in step with the rows that they count:
-- for 100,000 repositories counting takes seconds.
ALTER TABLE repositories ADD COLUMN tags INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN manifests INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN pushed_at INTEGER NOT NULL DEFAULT 0;
UPDATE repositories SET
  tags = (SELECT count(*) FROM tags AS t WHERE t.repository_id = repositories.id),
  manifests = (SELECT count(*) FROM manifests AS m WHERE m.repository_id = repositories.id),
  size = (SELECT coalesce(sum(b.size), 0) FROM repository_blobs AS l JOIN blobs AS b ON b.digest = l.digest
    WHERE l.repository_id = repositories.id),
  pushed_at = (SELECT coalesce(max(m.pushed_at), 0) FROM manifests AS m WHERE m.repository_id = repositories.id);
CREATE INDEX repositories_size ON repositories (size, name) WHERE manifests > 0;
CREATE INDEX repositories_tags ON repositories (tags, name) WHERE manifests > 0;
CREATE INDEX repositories_pushed ON repositories (pushed_at, name) WHERE manifests > 0;
CREATE INDEX repositories_listed ON repositories (name) WHERE manifests > 0;

-- natural is the name with its numbers comparable as text; size is what the manifest names, of an index also what those
-- name that it lists. As floating point and with a bound: clients choose the sizes in manifests.
ALTER TABLE tags ADD COLUMN natural TEXT NOT NULL DEFAULT '';
ALTER TABLE tags ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
UPDATE tags SET natural = natural_key(name), size = (
  SELECT CAST(min(9e18, CAST(m.total_bytes AS REAL) + coalesce((
    SELECT sum(CAST(k.total_bytes AS REAL)) FROM manifest_references AS c
    JOIN manifests AS k ON k.repository_id = c.repository_id AND k.digest = c.digest
    WHERE c.repository_id = m.repository_id AND c.manifest = m.digest AND c.kind = 'manifest'), 0)) AS INTEGER)
  FROM manifests AS m WHERE m.repository_id = tags.repository_id AND m.digest = tags.digest);
CREATE INDEX tags_natural ON tags (repository_id, natural, name);
CREATE INDEX tags_size ON tags (repository_id, size, name);
CREATE INDEX tags_pushed ON tags (repository_id, pushed_at, name);

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
