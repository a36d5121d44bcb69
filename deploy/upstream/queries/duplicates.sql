-- What came more than once: a box sends a batch again when it could not hear the answer. "rows" falls to "events" as
-- parts are merged; "twice_with_changes" must be 0: an id whose event came in two versions.
SELECT
    source,
    sum(copies) AS rows,
    count() AS events,
    rows - events AS duplicates,
    countIf(versions > 1) AS twice_with_changes
FROM (
    SELECT source, id, count() AS copies, uniqExact(cityHash64(subject, type, time_us, sequence, data)) AS versions
    FROM vedette.events
    GROUP BY source, id
)
GROUP BY source
ORDER BY duplicates DESC, source
