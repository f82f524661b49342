CREATE TABLE oneport_session (
    key_hash   TEXT PRIMARY KEY,    -- SHA-256 of the key in hexadecimal: who reads the table cannot use it
    data       TEXT NOT NULL,       -- JSON
    version    BIGINT NOT NULL,     -- counts the changes, so that none is overwritten unseen
    expires_at BIGINT NOT NULL      -- Unix seconds
);
CREATE INDEX oneport_session_expires_at ON oneport_session (expires_at);

CREATE TABLE oneport_user (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username   TEXT NOT NULL UNIQUE,
    password   TEXT NOT NULL,       -- encoded as Django does
    stamp      TEXT NOT NULL,       -- random, new with each new password: sessions hold a hash of it
    is_active  BOOLEAN NOT NULL DEFAULT TRUE,
    is_staff   BOOLEAN NOT NULL DEFAULT FALSE,
    created_at BIGINT NOT NULL      -- Unix seconds
);
