-- The receiver's tables. Runs as it is on ClickHouse 18.16 (Debian 12) and is written to run on today's; repeating it
-- changes nothing. Retention and clusters: docs/upstream.md.

CREATE DATABASE IF NOT EXISTS vedette;

-- One row an event, for ever the same row: everything in the sorting key and the partition is fixed when the box
-- makes the event, so a batch that comes twice meets itself. Merges drop the second copy when they come by it; FINAL
-- drops it when it is read.
CREATE TABLE IF NOT EXISTS vedette.events (
    source String,                -- "urn:vedette:<device>"
    subject String,               -- the camera; empty for the device itself
    type String,                  -- detection, watermark.identified, source.state, budget.step, update.outcome, gap, heartbeat
    time DateTime('UTC'),         -- by the box's clock, whole seconds, for reading and for hours
    time_us UInt64,               -- the same, microseconds since 1970
    sequence UInt64,              -- 1, 2, 3 … for each source, without a hole; 0: a heartbeat, which has none
    id String,
    bootid String,
    clock String,                 -- empty, or why the box's clock is not to be trusted
    arrived DateTime('UTC'),      -- by the receiver's clock
    data String                   -- the event's data: JSON, byte for byte
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (source, subject, time_us, id);

-- The door. Takes one event a line as text, takes it apart, and keeps nothing itself. Data may hold names like "id"
-- and any text, so it is cut out first: it begins after the first "data": (before it there are only plain values) and
-- ends where nothing but plain values follow. What is left is the envelope.
CREATE TABLE IF NOT EXISTS vedette.intake (
    raw String,
    start UInt64 MATERIALIZED position(raw, '"data":'),
    rest String MATERIALIZED if(start = 0, '', substring(raw, start + 7)),
    tail String MATERIALIZED extract(rest, '((?:,"[a-z0-9]+":(?:"(?:[^"\\\\]|\\\\.)*"|[0-9a-z.-]+))*)}$'),
    data String MATERIALIZED if(start = 0, '', substring(rest, 1, length(rest) - length(tail) - 1)),
    envelope String MATERIALIZED if(start = 0, raw, concat(substring(raw, 1, start - 1), tail, '}')),
    id String MATERIALIZED visitParamExtractString(envelope, 'id'),
    source String MATERIALIZED visitParamExtractString(envelope, 'source'),
    type String MATERIALIZED visitParamExtractString(envelope, 'type'),
    subject String MATERIALIZED visitParamExtractString(envelope, 'subject'),
    bootid String MATERIALIZED visitParamExtractString(envelope, 'bootid'),
    clock String MATERIALIZED visitParamExtractString(envelope, 'clock'),
    sent String MATERIALIZED visitParamExtractString(envelope, 'time'),
    number String MATERIALIZED visitParamExtractString(envelope, 'sequence'),
    second String MATERIALIZED
        if(match(sent, '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z$'),
           concat(substring(sent, 1, 10), ' ', substring(sent, 12, 8)), '1970-01-01 00:00:01'),
    wrong String MATERIALIZED multiIf(
        substring(raw, 1, 1) != '{' OR substring(raw, length(raw), 1) != '}', 'a line that is no JSON object',
        visitParamExtractString(envelope, 'specversion') != '1.0', 'specversion is not "1.0"',
        id = '', 'no id',
        source = '', 'no source',
        type = '', 'no type',
        concat(substring(sent, 1, 10), ' ', substring(sent, 12, 8)) != toString(toDateTimeOrZero(second, 'UTC')),
            concat('time "', sent, '" is no RFC 3339 time in UTC'),
        number = '' AND type = 'heartbeat', '',
        NOT match(number, '^[0-9]{1,18}$') OR match(number, '^0+$'), concat('sequence "', number, '" is no number'),
        '')
) ENGINE = Null;

-- From the door to the table. Whatever is wrong with a line stands as a text where a number must be: that fails the
-- whole INSERT with HTTP 400, the text in the answer, and stores nothing.
CREATE MATERIALIZED VIEW IF NOT EXISTS vedette.intake_to_events TO vedette.events AS
SELECT
    source, subject, type, toDateTimeOrZero(second, 'UTC') AS time,
    toUInt64(toUnixTimestamp(toDateTimeOrZero(second, 'UTC'))) * 1000000
        + toUInt64(substring(concat(extract(sent, '[.]([0-9]+)Z$'), '000000'), 1, 6)) AS time_us,
    toUInt64(if(wrong = '', if(number = '', '0', number), concat('event refused: ', wrong, '; id "', id, '"')))
        AS sequence,
    id, bootid, clock, now() AS arrived, data
FROM vedette.intake;
