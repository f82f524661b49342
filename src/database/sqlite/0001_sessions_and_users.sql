CREATE TABLE oneport_session (
    key_hash   TEXT PRIMARY KEY,    -- SHA-256 of the key in hexadecimal: who reads the table cannot use it
    data       TEXT NOT NULL,       -- JSON
    version    BIGINT NOT NULL,     -- counts the changes, so that none is overwritten unseen
    expires_at INTEGER NOT NULL     -- Unix seconds
);
CREATE INDEX oneport_session_expires_at ON oneport_session (expires_at);

CREATE TABLE oneport_user (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,   -- never given twice: a session may still name a user who was removed
    username   TEXT NOT NULL UNIQUE,
    password   TEXT NOT NULL,       -- encoded as Django does
    stamp      TEXT NOT NULL,       -- random, new with each new password: sessions hold a hash of it
    is_active  INTEGER NOT NULL DEFAULT 1,
    is_staff   INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL     -- Unix seconds
);
