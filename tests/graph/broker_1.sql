BEGIN TRANSACTION;
CREATE TABLE paper_orders (
	client_order_id VARCHAR(32) NOT NULL, 
	number INTEGER NOT NULL, 
	symbol VARCHAR(32) NOT NULL, 
	side VARCHAR(4) NOT NULL, 
	quantity VARCHAR(64) NOT NULL, 
	price VARCHAR(64) NOT NULL, 
	fee VARCHAR(64) NOT NULL, 
	time_ns VARCHAR(32) NOT NULL, 
	detail TEXT NOT NULL, 
	PRIMARY KEY (client_order_id), 
	UNIQUE (number)
);
INSERT INTO "paper_orders" VALUES('hfet54gteny2nperwwxtt5hg2joj',1,'SIM','buy','26.0486','553.490676','1.44176572','1767225600000000000','{"run_id": "trade-SIM-20260101T000000Z-1", "leg": "entry"}');
COMMIT;