-- Who is behind and who is quiet. Boxes send oldest first, so whatever a box still holds is younger than the newest it
-- has sent: "unsent_at_most_s" bounds the age of its oldest unsent event. Ages are empty where the box's clock is bad.
SELECT
    source,
    max(arrived) AS last_arrival,
    toUInt32(now()) - toUInt32(last_arrival) AS quiet_s,
    argMax(clock, sequence) AS bad_clock,
    if(bad_clock = '', toInt64(toUInt32(now())) - toInt64(toUInt32(argMax(time, sequence))), NULL) AS unsent_at_most_s,
    if(bad_clock = '', toInt64(toUInt32(argMax(arrived, sequence))) - toInt64(toUInt32(argMax(time, sequence))), NULL) AS last_delay_s,
    maxIf(toInt64(toUInt32(arrived)) - toInt64(toUInt32(time)), clock = '') AS worst_delay_s,
    multiIf(quiet_s > 600, 'quiet', bad_clock != '', 'bad clock', last_delay_s > 60, 'catching up', 'ok') AS state
FROM vedette.events
GROUP BY source
ORDER BY quiet_s DESC, source
