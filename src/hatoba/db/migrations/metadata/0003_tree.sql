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
