-- What a request to a model has cost, in picodollars (1e-12 US dollars), for sessions with a budget; and whether that is what it
-- could have cost at most, as its answer didn't say.
alter table credential_use add column cost bigint;
alter table credential_use add column cost_is_estimate boolean;
