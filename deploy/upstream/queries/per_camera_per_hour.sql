-- What each camera reported, hour by hour. "untrusted" events carry a time that the box itself does not trust.
SELECT
    source,
    subject AS camera,
    toStartOfHour(time) AS hour,
    countIf(type = 'detection') AS detections,
    sum(if(type = 'detection', length(extractAll(data, '"class_id":')), 0)) AS objects,
    countIf(type != 'detection') AS other_events,
    countIf(clock != '') AS untrusted
FROM vedette.events FINAL
WHERE subject != ''
GROUP BY source, camera, hour
ORDER BY source, camera, hour
