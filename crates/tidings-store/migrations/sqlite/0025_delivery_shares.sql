-- How often a share of the deliveries was taken up: what was written for whoever had it before counts no more.
CREATE TABLE delivery_shares (
    share TEXT    NOT NULL PRIMARY KEY,
    taken INTEGER NOT NULL
);
