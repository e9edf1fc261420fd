PRAGMA application_id = 1869767794;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE orders (
  seq          INTEGER PRIMARY KEY AUTOINCREMENT,
  order_id     TEXT NOT NULL UNIQUE,
  user_id      TEXT NOT NULL,
  item_ids     TEXT NOT NULL,                -- a JSON list of strings
  total_amount TEXT NOT NULL,                -- the decimal as it was sent
  status       TEXT NOT NULL CHECK (status IN ('Pending', 'Processing', 'Completed', 'Failed')),
  attempts     INTEGER NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND 2000000000),   -- counted before each begins
  created_at   INTEGER NOT NULL,
  started_at   INTEGER,
  completed_at INTEGER,
  retry_at     INTEGER NOT NULL DEFAULT 0 CHECK (retry_at >= 0),   -- not to be claimed before; 0 for at once
  last_error   TEXT
) STRICT;
INSERT INTO "orders" VALUES(1,'p-1','u','["i"]','1','Completed',1,1795673255029,1795673255030,1795673255035,0,NULL);
INSERT INTO "orders" VALUES(2,'p-2','u','["i"]','1','Completed',1,1795673255030,1795673255033,1795673255037,0,NULL);
INSERT INTO "orders" VALUES(3,'f-1','u','["i"]','1','Failed',1,1795673255033,1795673255036,NULL,0,'no stock');
INSERT INTO "orders" VALUES(4,'r-1','u','["i"]','1','Pending',1,1795673255035,1795673255036,NULL,4102444800000,'exit status 1');
INSERT INTO "orders" VALUES(5,'x-1','u','["i"]','1','Processing',1,1795673255036,1795673255045,NULL,0,NULL);
INSERT INTO "orders" VALUES(6,'x-2','u','["i"]','1','Pending',1,1795673255037,1795673255045,NULL,0,'orderd ended during attempt 1');
INSERT INTO "orders" VALUES(7,'neg','u2','["i"]','1.50','Pending',0,1700000000000,NULL,NULL,0,NULL);
INSERT INTO "orders" VALUES(8,'past','u2','["i"]','1.50','Pending',1,1700000000000,NULL,NULL,0,NULL);
CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), written_at INTEGER NOT NULL) STRICT;
INSERT INTO "probe" VALUES(1,0);
CREATE TABLE status_counts (
  status        TEXT PRIMARY KEY,
  orders        INTEGER NOT NULL,
  processing_ms INTEGER NOT NULL   -- from creation to completion, summed over completed orders
) STRICT, WITHOUT ROWID;
INSERT INTO "status_counts" VALUES('Completed',2,13);
INSERT INTO "status_counts" VALUES('Failed',1,0);
INSERT INTO "status_counts" VALUES('Pending',4,0);
INSERT INTO "status_counts" VALUES('Processing',1,0);
CREATE INDEX orders_fresh      ON orders (seq)           WHERE status = 'Pending' AND retry_at = 0;
CREATE INDEX orders_due        ON orders (retry_at, seq) WHERE status = 'Pending' AND retry_at > 0;
CREATE INDEX orders_delayed    ON orders (seq)           WHERE status = 'Pending' AND retry_at > 0;
CREATE INDEX orders_processing ON orders (seq)           WHERE status = 'Processing';
CREATE INDEX orders_completed  ON orders (seq)           WHERE status = 'Completed';
CREATE INDEX orders_failed     ON orders (seq)           WHERE status = 'Failed';
CREATE INDEX orders_user       ON orders (user_id, seq);
CREATE TRIGGER orders_inserted AFTER INSERT ON orders BEGIN
  UPDATE status_counts SET orders = orders + 1, processing_ms = processing_ms
    + iif(new.status = 'Completed', max(0, coalesce(new.completed_at - new.created_at, 0)), 0)
    WHERE status = new.status;
END;
CREATE TRIGGER orders_deleted AFTER DELETE ON orders BEGIN
  UPDATE status_counts SET orders = orders - 1, processing_ms = processing_ms
    - iif(old.status = 'Completed', max(0, coalesce(old.completed_at - old.created_at, 0)), 0)
    WHERE status = old.status;
END;
CREATE TRIGGER orders_updated AFTER UPDATE OF status, created_at, completed_at ON orders BEGIN
  UPDATE status_counts SET orders = orders - 1, processing_ms = processing_ms
    - iif(old.status = 'Completed', max(0, coalesce(old.completed_at - old.created_at, 0)), 0)
    WHERE status = old.status;
  UPDATE status_counts SET orders = orders + 1, processing_ms = processing_ms
    + iif(new.status = 'Completed', max(0, coalesce(new.completed_at - new.created_at, 0)), 0)
    WHERE status = new.status;
END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('orders',8);
COMMIT;
