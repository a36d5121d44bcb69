-- The proof, from sequence numbers alone. Each box counts 1, 2, 3 …; every number up to its highest has either come or
-- lies in a range that one of its gap events declares, and no more are missing than those events say.
--   missing      numbers up to the highest that have not come
--   declared     those of them that lie in a declared range
--   undeclared   the others, which nobody answers for; "holes" lists the first ten ranges with such numbers
--   allowed      events that the declarations admit to (a range of unknown number: its whole length)
--   restarted    numbers that came with two ids: the box, or its file, began to count again
-- All numbers of a box are in memory at once, 8 bytes each: on a large table add "AND source = …" to both WHEREs.
SELECT
    source,
    any(length(numbers)) AS received,
    any(numbers[length(numbers)]) AS highest,
    highest - received AS missing,
    sum(known) AS declared,
    missing - declared AS undeclared,
    any(admitted) AS allowed,
    any(ids) - received AS restarted,
    arrayStringConcat(arraySlice(groupArray(hole), 1, 10), ' ') AS holes,
    multiIf(restarted > 0, 'RESTARTED', undeclared > 0 OR missing > allowed, 'LOST', missing > 0, 'declared', 'complete')
        AS verdict
FROM (
    SELECT
        source, numbers, ids, admitted,
        arraySum(arrayMap((start, end) -> greatest(toInt64(0), least(high, end) - greatest(low, start) + 1), starts, ends))
            AS known,
        if(known < high - low + 1 AND low > 0, concat(toString(low), '-', toString(high)), '') AS hole
    FROM (
        SELECT
            source, numbers, ids, admitted, ends,
            -- Declared ranges may overlap: each begins where those before it have ended.
            arrayMap((start, i) -> greatest(start, 1 + arrayReduce('max',
                arrayPushFront(arraySlice(ends, 1, i - 1), toInt64(0)))), firsts, arrayEnumerate(firsts)) AS starts,
            arrayMap(before -> before + 1, arrayFilter((before, n) -> n > before + 1, befores, numbers)) AS lows,
            arrayMap(n -> n - 1, arrayFilter((n, before) -> n > before + 1, numbers, befores)) AS highs
        FROM (
            SELECT source, numbers, ids, admitted, arrayPopBack(arrayPushFront(numbers, toInt64(0))) AS befores,
                   arraySort(firsts) AS firsts, arraySort((end, start) -> start, lasts, firsts) AS ends
            FROM (
                SELECT source, arraySort(groupUniqArray(toInt64(sequence))) AS numbers, uniqExact(id) AS ids
                FROM vedette.events
                WHERE sequence > 0
                GROUP BY source
            ) AS came ANY LEFT JOIN (
                SELECT source, groupArray(first) AS firsts, groupArray(last) AS lasts, sum(many) AS admitted
                FROM (
                    SELECT
                        source,
                        toInt64(visitParamExtractUInt(data, 'first')) AS first,
                        toInt64(visitParamExtractUInt(data, 'last')) AS last,
                        if(visitParamExtractRaw(data, 'count') = 'null', last - first + 1,
                           toInt64(visitParamExtractUInt(data, 'count'))) AS many
                    FROM vedette.events FINAL
                    WHERE type = 'gap' AND first > 0
                )
                GROUP BY source
            ) AS told USING source
        )
    )
    LEFT ARRAY JOIN lows AS low, highs AS high
)
GROUP BY source
ORDER BY source
