-- How often a share of the deliveries was taken up: what was written for whoever had it before counts no more.
CREATE TABLE delivery_shares (
    share TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    taken BIGINT NOT NULL
);
