"""Every limit of the data plane by name. What waits or grows has a line here."""

from __future__ import annotations

BODY_BYTES_MAX = 10 * 1024 * 1024
BODIES_BYTES_MAX = 256 * 1024 * 1024
"""Of bodies that are still arriving, together in one worker."""
HEADER_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
CHUNKS_MAX = 10_000
"""Chunks of one body: a chunk costs a callback, however small it is."""
PIPELINE_MAX = 16
"""Requests of one connection that wait for their answers; then we stop reading from it."""
CONNECTIONS_MAX = 8192
IN_FLIGHT_MAX = 1024
"""Requests of one worker without an answer; the next one gets 503 and Retry-After."""
IN_FLIGHT_ROWS_MAX = 65_536
OUTCOMES_MAX = 10_000
FALLBACKS_MAX = 4

HANDSHAKE_S = 10.0
TLS_CLOSE_S = 5.0
HEADER_S = 10.0
BODY_S = 30.0
IDLE_S = 75.0
SEND_S = 30.0
"""How long a client may leave answers unread that do not fit into the socket's buffers."""
LINGER_S = 1.0
"""After a refusal: how long what still arrives is thrown away, so that the answer is read."""
SWEEP_S = 0.5
DRAIN_S = 5.0
"""A draining worker gives an idle keep-alive connection this long to send its last request."""
ORPHAN_S = 600.0
"""How long workers serve on after their supervisor died and no other took over."""

TEXT_CHARS_MAX = 100_000
CATEGORY_CHARS_MAX = 1_000
ID_CHARS_MAX = 256
FOUND_CHARS_MAX = 60
"""Of a value that is repeated in an error message."""
INT_MAX = 2**53
"""Whole numbers travel as float64: beyond this they are no longer exact."""

FRAME_BYTES_MAX = 256 * 1024 * 1024
ENGINE_PENDING_MAX = 4096
ENGINE_BATCH_ROWS_MAX = 4096
HUNG_ASKS = 3
HUNG_S = 5.0
"""An engine that let so many asks time out, and said nothing for so long, is replaced."""
ENGINE_SWEEP_S = 0.01
ENGINE_RECONNECT_S = (0.02, 0.5)

POLL_S = 0.2
REPORT_S = 0.5
REPORT_IDLE_S = 2.0
RETRY_S = 5.0
"""Before a plan that could not be loaded is tried again."""
WORKER_START_S = 60.0
ENGINE_START_S = 300.0
BACKOFF_S = (0.05, 5.0)
STEADY_S = 10.0
"""A child that lived this long is restarted at once when it dies."""
PROBLEMS_MAX = 32
