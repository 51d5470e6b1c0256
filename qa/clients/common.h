/* Shared by the qa clients: the iSCSI initiator is libiscsi's, so that nothing of the gateway tests itself. */
#ifndef QA_COMMON_H
#define QA_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

/* Exit codes of every client; the drivers rely on them. */
enum {
	EXIT_FINE = 0,
	EXIT_FOUND = 1, /* the thing under test misbehaved */
	EXIT_USAGE = 2, /* wrong arguments, or the client itself could not work */
	EXIT_LOST = 3,  /* the connection ended before the client meant it to */
};

/* Where a login goes and how long it is retried. */
struct target {
	const char *url;       /* iscsi://HOST:PORT/IQN/LUN, with libiscsi's ?header_digest= where wanted */
	const char *initiator; /* InitiatorName */
	double retry_s;        /* login is tried again for so long; 0: once */
	int timeout_s;         /* limit of each command and of each login attempt */
	uint32_t isid;         /* of the initiator port, 24 bits; 0: a random one for each session */
};

/* A session, logged in, and the unit's geometry. */
struct unit {
	struct iscsi_context *iscsi;
	int lun;
	uint32_t block_size; /* bytes */
	uint64_t blocks;
};

void die(int code, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

double now_s(void);          /* CLOCK_MONOTONIC, seconds */
void sleep_s(double seconds);

/* A session without automatic reconnection: what was in flight when the connection went is told to its callback, never sent again. NULL when `retry_s` ran
 * out; `reason` (may be NULL) then names the last failure. With `probe` the unit must also answer READ CAPACITY(16). */
struct iscsi_context *session_open(const struct target *target, int *lun, char *reason, size_t reason_size);
bool unit_open(const struct target *target, struct unit *unit, char *reason, size_t reason_size);
void unit_close(struct unit *unit);

/* One turn of the event loop; false when libiscsi gives the session up. */
bool session_turn(struct iscsi_context *iscsi, int wait_ms);

uint32_t crc32c(uint32_t crc, const void *data, size_t size);

/* xorshift64*, seeded: the same seed gives the same run. */
struct random {
	uint64_t state;
};
void random_seed(struct random *r, uint64_t seed);
uint64_t random_next(struct random *r);
uint64_t random_below(struct random *r, uint64_t bound);

/* The number in `text` or death with a message that names `what`. */
uint64_t number(const char *text, const char *what);

/* "02/04/0c" (status CHECK CONDITION: sense key / ASC / ASCQ), "good", "busy (08)", ... */
const char *outcome(const struct scsi_task *task, char *buffer, size_t size);

#endif
