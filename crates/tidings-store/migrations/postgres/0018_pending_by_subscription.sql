-- What is due is read by subscription: one that has much pending does not stand before the others.
CREATE INDEX pending_of_subscription ON pending_deliveries (state, subscription, next_at_ms);
DROP INDEX pending_by_time;
