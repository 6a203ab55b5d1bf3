-- What applications ask of a database in memory: inserts, an index, joins, groups.
CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, name TEXT, price INTEGER);
INSERT INTO item SELECT n, n * 7919 % 101, 'item ' || (n * 104729 % 9973), n * 31 % 977
    FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 30000) SELECT n FROM c);
CREATE INDEX by_name ON item(name);
SELECT kind, count(*), sum(price) FROM item GROUP BY kind ORDER BY 3 DESC LIMIT 5;
SELECT count(*) FROM item a JOIN item b ON a.name = b.name WHERE a.id < b.id;
UPDATE item SET price = price + length(name) WHERE kind % 3 = 0;
SELECT sum(price), max(name), avg(kind) FROM item WHERE name LIKE '%9%';
DELETE FROM item WHERE price % 5 = 0;
SELECT count(*), sum(id) FROM item;
