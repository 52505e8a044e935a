-- Readers go through a session's events in this order.
create index session_event_by_session on session_event (session_uid, seq);
