/* The sessions of paths.c: login, loss and login again, silence, and commands that are not answered. */
#ifndef QA_SESSIONS_H
#define QA_SESSIONS_H

#include "common.h"
#include "paths.h"

#define TURN_MS 10 /* the grain of every time here, and of the commands' */

/* Asymmetric access states (SPC-4 6.35). */
enum access { OPTIMIZED = 0, NON_OPTIMIZED = 1, STANDBY = 2, UNAVAILABLE = 3, LBA_DEPENDENT = 4, OFFLINE = 14, TRANSITIONING = 15, UNKNOWN = 16 };

/* What a path is asked about itself. */
enum question { NOTHING, IDENTITY, GROUPS, READY };

struct path {
	struct session *session;
	uint32_t unit, in_flight;
	enum access access; /* as last known */
	bool known;         /* in this session */
	bool identified;
	uint16_t group;
	enum question asking;
	bool want_groups;
	double ask_after, heard;
};

/* One command, or question, that was sent and not answered. With neither it is an orphan: task management ended it, but libiscsi still has it. */
struct attempt {
	struct path *path;
	struct command *command;
	enum question question;
	struct scsi_task *task;
	uint64_t id;
	double since, step_since;
	enum step { SENT, ABORTING, REFUSED, RESETTING } step; /* REFUSED: ABORT TASK was answered, but not with success */
	LIST_ENTRY(attempt) list;
};

struct management;

struct session {
	const char *portal;
	uint32_t index;
	struct iscsi_context *iscsi;
	enum { DOWN, CONNECTING, LOGIN, UP } state;
	bool doomed; /* to be dropped as soon as libiscsi is not on the stack */
	char why[160];
	double since, lost_at, next_try, pause, heard, noop_since, unsent_since;
	struct path path[UNITS_MAX];
	LIST_HEAD(, attempt) attempts;
	LIST_HEAD(, management) managements;
	uint64_t logins, losses, good;
};

extern struct sessions {
	struct paths_target target;
	struct session session[PORTALS_MAX];
	uint64_t next_id, aborts, resets, late_answers;
	uint32_t isid; /* the same in all logins of this process, as a host keeps its own */
	double begun;
	bool closing;
} all;

void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
void doom(struct session *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The number of a path's LUN. */
int path_lun(const struct path *path);

/* An attempt, to be sent with `attempt_callback`; and what came of it: without a task nothing was sent, and it is gone. */
struct attempt *attempt_new(struct path *path);
bool attempt_sent(struct attempt *a, struct scsi_task *task);
void attempt_callback(struct iscsi_context *iscsi, int status, void *command_data, void *private_data);

void sessions_begin(void);

/* What is due by time. */
void sessions_tick(void);

/* As paths_turn. */
bool sessions_poll(int wait_ms, int fd);

void sessions_close(void);

/* Of paths.c: a session has something to ask; an attempt was answered, lost with its session, or ended by task management. */
void paths_ask(struct session *s, double now);
void attempt_answered(struct attempt *a);
void attempt_lost(struct attempt *a);
void attempt_ended(struct attempt *a);

#endif
