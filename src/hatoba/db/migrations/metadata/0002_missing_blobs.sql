-- What is looked at every minute, whether its file has come back: mostly nothing.
CREATE INDEX blobs_missing ON blobs (digest) WHERE state = 'missing';
