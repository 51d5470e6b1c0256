/* Disks behind several portals, as a host with dm-multipath has them, on libiscsi.
 *
 * There is a session to each portal, and a path for each portal and unit. A command goes by the path whose target port group is in the best state: active/optimized
 * before active/non-optimized before standby before unavailable and offline; while the best one is in transition it waits. The states come from REPORT TARGET PORT
 * GROUPS, which is asked when a path is new, after 2A/06, 04/0A, 04/0B and 04/0C, and each second on a path that is idle (after TEST UNIT READY). A path that
 * says nothing for two seconds has the state that the others tell. A target without port groups has equal paths.
 *
 * Nothing but a sense that says so is an error to the caller: a command is sent again, for ever, after a unit attention, BUSY, TASK SET FULL, TASK ABORTED, a port
 * group's state, or the loss of its session. In that last case it waits first, as with Linux' fast_io_fail_tmo: until the session is back, or for `replacement_s`. A
 * command without an answer is given up as Linux does it: ABORT TASK, LOGICAL UNIT RESET, and then the session. Sessions are made again in the background. */
#ifndef QA_PATHS_H
#define QA_PATHS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

enum {
	PORTALS_MAX = 16,
	UNITS_MAX = 256,
	OUTCOME_MAX = 64, /* bytes of an outcome in words */
};

/* All in seconds. */
struct limits {
	double replacement_s;      /* a lost session is waited for */
	double give_up_s;          /* of a command until ABORT TASK */
	double abort_s, reset_s;   /* of ABORT TASK until LOGICAL UNIT RESET; of that until the session is dropped */
	double noop_s, noop_out_s; /* a session says nothing for so long: NOP-Out; and then for so long: it is dropped */
	double login_s;            /* of one attempt */
};
extern const struct limits limits_of_linux;

struct paths_target {
	const char *initiator, *target; /* iSCSI names */
	const char *portal[PORTALS_MAX];
	uint32_t portals;
	uint32_t lun[UNITS_MAX]; /* of each unit */
	uint32_t units;
	struct limits limits;
	bool verbose; /* changes are told on stderr */
};

struct session;

/* One operation of the application. It stays its caller's; until `done` was called it must not change. */
struct command {
	enum what { DO_READ, DO_WRITE, DO_FLUSH, DO_CAPACITY } what;
	uint32_t unit;
	uint64_t offset; /* bytes */
	uint32_t size;   /* bytes of `data` */
	uint8_t *data;
	bool fua;
	void (*done)(struct command *command);

	/* The answer. */
	bool good;
	uint32_t portal; /* who gave it */
	char outcome[OUTCOME_MAX];

	/* The paths' own. */
	double since, not_before, held_until; /* first submitted; no earlier than; the lost session is waited for until */
	struct session *held_by;
	TAILQ_ENTRY(command) waiting;
};

/* Logs in everywhere and waits until each unit can be used, for `wait_s` at most; dies where one cannot. Portals that do not answer are left to the background. */
void paths_open(const struct paths_target *target, double wait_s);

/* Bytes of a unit, and of its blocks. */
uint64_t paths_size(uint32_t unit);
uint32_t paths_block_size(uint32_t unit);

void paths_submit(struct command *command);

/* Waits for events, `wait_ms` at most, and works on them. Returns whether `fd` (-1: none) can be read. */
bool paths_turn(int wait_ms, int fd);

/* ', "retries": {outcome: n}, "portals": {...}, ...' */
void paths_print(void);

/* Answers that came although a task management function had ended their command. */
uint64_t paths_late_answers(void);

/* Logs out. */
void paths_close(void);

#endif
