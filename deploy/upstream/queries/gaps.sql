-- What the boxes themselves declare lost or late: their gap events. "events" is exact where the box knows the number;
-- "at_most" is the length of the range where it does not (a damaged file). Both 0: unknown (a power cut).
SELECT
    source,
    visitParamExtractString(data, 'reason') AS reason,
    visitParamExtractUInt(data, 'count') AS events,
    visitParamExtractUInt(data, 'first') AS first,
    visitParamExtractUInt(data, 'last') AS last,
    if(visitParamExtractRaw(data, 'count') = 'null' AND first > 0, last - first + 1, 0) AS at_most,
    visitParamExtractRaw(data, 'types') AS types,
    visitParamExtractString(data, 'since') AS since,
    visitParamExtractString(data, 'until') AS until,
    visitParamExtractString(data, 'detail') AS detail,
    sequence
FROM vedette.events FINAL
WHERE type = 'gap'
ORDER BY source, sequence
