#include "paths.h"
#include "common.h"
#include "sessions.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_S 0.1      /* before a command is sent again by a path that refused it; before a group in transition is asked again */
#define CHECK_S 1.0      /* between two checks of an idle path */
#define SILENT_S 2.0     /* a path that says nothing for so long is not believed any more */
#define ALL_PATHS_S 10.0 /* how long the begin waits for the slower portals */

enum {
	ALLOCATION = 8192,  /* bytes that INQUIRY and REPORT TARGET PORT GROUPS may return */
	NAME_MAX_SIZE = 64, /* bytes of a designator */
	CAPACITY_SIZE = 32, /* bytes that READ CAPACITY(16) returns */
	REASONS_MAX = 64,
};

static struct unit_state {
	uint64_t size;
	uint32_t block_size;
	uint8_t name[NAME_MAX_SIZE]; /* designator of the logical unit */
	uint32_t name_size;
	TAILQ_HEAD(, command) waiting;
} units[UNITS_MAX];

static struct {
	char name[OUTCOME_MAX];
	uint64_t count;
} reasons[REASONS_MAX];

static void count_retry(const char *reason)
{
	for (size_t i = 0; i < REASONS_MAX; i++) {
		if (reasons[i].count == 0)
			snprintf(reasons[i].name, sizeof(reasons[i].name), "%s", reason);
		if (strcmp(reasons[i].name, reason) == 0) {
			reasons[i].count++;
			return;
		}
	}
}

static const char *access_name(enum access access)
{
	switch (access) {
	case OPTIMIZED: return "active/optimized";
	case NON_OPTIMIZED: return "active/non-optimized";
	case STANDBY: return "standby";
	case UNAVAILABLE: return "unavailable";
	case LBA_DEPENDENT: return "lba-dependent";
	case OFFLINE: return "offline";
	case TRANSITIONING: return "transitioning";
	default: return "unknown";
	}
}

/* ---- commands that wait ---- */

static void wait_more(struct command *command)
{
	TAILQ_INSERT_TAIL(&units[command->unit].waiting, command, waiting);
}

static void finish(struct command *command, struct path *path, bool good, const char *how)
{
	command->good = good;
	command->portal = path->session->index;
	snprintf(command->outcome, sizeof(command->outcome), "%s", how);
	path->session->good += good;
	command->done(command);
}

static void set_access(struct path *path, enum access access)
{
	struct command *command;

	if (path->access == access)
		return;
	tell("lun %d by %s: %s", path_lun(path), path->session->portal, access_name(access));
	path->access = access;
	if (access == OPTIMIZED || access == NON_OPTIMIZED)
		TAILQ_FOREACH(command, &units[path->unit].waiting, waiting)
			command->not_before = 0;
}

/* What a path says about itself. */
static void path_says(struct path *path, enum access access)
{
	path->known = true;
	set_access(path, access);
}

/* Something changed for a unit: all of its paths are asked. */
static void ask_again(uint32_t unit)
{
	for (uint32_t p = 0; p < all.target.portals; p++) {
		all.session[p].path[unit].want_groups = true;
		all.session[p].path[unit].ask_after = 0;
	}
}

/* ---- answers ---- */

/* The command or question of an attempt, which is an orphan then. */
static struct command *take_from(struct attempt *a)
{
	struct command *command = a->command;

	if (command != NULL)
		a->path->in_flight--;
	if (a->question != NOTHING)
		a->path->asking = NOTHING;
	a->command = NULL;
	a->question = NOTHING;
	return command;
}

void attempt_lost(struct attempt *a)
{
	struct command *command = take_from(a);

	if (command == NULL)
		return;
	command->held_by = a->path->session;
	command->held_until = now_s() + all.target.limits.replacement_s;
	command->not_before = 0;
	wait_more(command);
	count_retry("session lost");
}

/* The state that a sense tells; false for one that tells none. */
static bool access_of_sense(const struct scsi_sense *sense, enum access *access)
{
	if (sense->key != SCSI_SENSE_NOT_READY)
		return false;
	switch (sense->ascq) {
	case 0x040a: *access = TRANSITIONING; return true;
	case 0x040b: *access = STANDBY; return true;
	case 0x040c: *access = UNAVAILABLE; return true;
	default: return false;
	}
}

static void retry(struct command *command, const char *how, double pause)
{
	count_retry(how);
	command->not_before = pause > 0 ? now_s() + pause : 0;
	wait_more(command);
}

static void take_data(struct command *command, const struct scsi_task *task, struct path *path)
{
	if (command->what != DO_READ && command->what != DO_CAPACITY) {
		finish(command, path, true, "good");
	} else if (task->datain.size != (int)command->size) {
		char how[OUTCOME_MAX];

		snprintf(how, sizeof(how), "%d bytes instead of %u", task->datain.size, command->size);
		finish(command, path, false, how);
	} else {
		memcpy(command->data, task->datain.data, command->size);
		finish(command, path, true, "good");
	}
}

static void command_answered(struct path *path, struct command *command, const struct scsi_task *task)
{
	enum access access;
	char how[OUTCOME_MAX];

	outcome(task, how, sizeof(how));
	switch (task->status) {
	case SCSI_STATUS_GOOD:
		take_data(command, task, path);
		return;
	case SCSI_STATUS_BUSY:
	case SCSI_STATUS_TASK_SET_FULL:
		retry(command, how, RETRY_S);
		return;
	case SCSI_STATUS_TASK_ABORTED:
		retry(command, how, 0);
		return;
	case SCSI_STATUS_CHECK_CONDITION:
		if (task->sense.key == SCSI_SENSE_UNIT_ATTENTION) {
			if (task->sense.ascq == 0x2a06)
				ask_again(command->unit);
			retry(command, how, 0);
			return;
		}
		if (access_of_sense(&task->sense, &access)) {
			path_says(path, access);
			ask_again(command->unit);
			retry(command, how, RETRY_S);
			return;
		}
		break;
	default:
		break;
	}
	finish(command, path, false, how);
}

/* The unit by one of its names: the same at every portal. */
static void compare_name(const struct path *path, const uint8_t *name, uint32_t size)
{
	struct unit_state *unit = &units[path->unit];

	if (unit->name_size == 0) {
		memcpy(unit->name, name, size);
		unit->name_size = size;
	} else if (unit->name_size != size || memcmp(unit->name, name, size) != 0) {
		die(EXIT_FOUND, "LUN %d is another unit at %s", path_lun(path), path->session->portal);
	}
}

/* Page 83h: whose unit this is (an NAA designator, else one by vendor), and to which target port group the port belongs. */
static void identity_answered(struct path *path, const struct scsi_task *task)
{
	const uint8_t *page = task->datain.data, *name = NULL;
	uint32_t name_size = 0, name_type = 0;
	bool grouped = false;

	for (int at = 4; at + 4 <= task->datain.size && at + 4 + page[at + 3] <= task->datain.size; at += 4 + page[at + 3]) {
		const uint8_t *designator = page + at + 4;
		uint32_t association = page[at + 1] >> 4 & 3, type = page[at + 1] & 0xf, size = page[at + 3];

		if (association == 1 && type == 5 && size == 4) {
			path->group = (uint16_t)(designator[2] << 8 | designator[3]);
			grouped = true;
		} else if (association == 0 && (type == 3 || type == 1) && type > name_type && size <= NAME_MAX_SIZE) {
			name = designator;
			name_size = size;
			name_type = type;
		}
	}
	if (name != NULL)
		compare_name(path, name, name_size);
	path->identified = true;
	path->want_groups = grouped;
	if (!grouped)
		path_says(path, OPTIMIZED);
}

/* The state of a group in the answer to REPORT TARGET PORT GROUPS; unavailable where it is not listed. */
static enum access listed(const struct scsi_task *task, uint16_t group)
{
	const uint8_t *list = task->datain.data;

	for (int at = 4; at + 8 <= task->datain.size; at += 8 + 4 * list[at + 7])
		if ((list[at + 2] << 8 | list[at + 3]) == group)
			return (enum access)(list[at] & 0xf);
	return UNAVAILABLE;
}

/* Each path is believed about itself, and about those that are silent: their daemons may stand still, or be gone. */
static void groups_answered(struct path *path, const struct scsi_task *task)
{
	double now = now_s();

	path_says(path, listed(task, path->group));
	for (uint32_t p = 0; p < all.target.portals; p++) {
		struct path *other = &all.session[p].path[path->unit];

		if (other != path && other->access != UNKNOWN && now - other->heard > SILENT_S)
			set_access(other, listed(task, other->group));
	}
}

static void question_answered(struct path *path, enum question question, const struct scsi_task *task)
{
	enum access access;

	path->ask_after = 0;
	if (task->status == SCSI_STATUS_GOOD) {
		if (question == IDENTITY)
			identity_answered(path, task);
		else if (question == GROUPS)
			groups_answered(path, task);
		if (path->access == TRANSITIONING) {
			path->want_groups = true;
			path->ask_after = now_s() + RETRY_S;
		}
		return;
	}
	/* Who could not answer about its groups is asked again soon; who does not know them, never. */
	if (question == GROUPS && task->status == SCSI_STATUS_CHECK_CONDITION && task->sense.key == SCSI_SENSE_ILLEGAL_REQUEST &&
	    task->sense.ascq != SCSI_SENSE_ASCQ_LOGICAL_UNIT_NOT_SUPPORTED) {
		path_says(path, OPTIMIZED);
		return;
	}
	path->want_groups = path->identified;
	if (task->status == SCSI_STATUS_CHECK_CONDITION && task->sense.key == SCSI_SENSE_UNIT_ATTENTION) {
		if (task->sense.ascq == 0x2a06)
			ask_again(path->unit);
		return;
	}
	if (task->status == SCSI_STATUS_CHECK_CONDITION && access_of_sense(&task->sense, &access))
		path_says(path, access);
	else if (task->status == SCSI_STATUS_CHECK_CONDITION)
		path_says(path, UNAVAILABLE);
	path->ask_after = now_s() + (question == READY ? 0 : RETRY_S);
}

void attempt_ended(struct attempt *a)
{
	struct command *command = take_from(a);

	if (command != NULL)
		retry(command, "aborted", 0);
}

void attempt_answered(struct attempt *a)
{
	enum question question = a->question;
	struct command *command = take_from(a);

	if (command != NULL)
		command_answered(a->path, command, a->task);
	else if (question != NOTHING)
		question_answered(a->path, question, a->task);
	else
		all.late_answers++;
}

/* ---- sending ---- */

static struct scsi_task *groups_task(struct iscsi_context *iscsi, int lun, struct attempt *a)
{
	/* REPORT TARGET PORT GROUPS, which libiscsi has no function for. */
	unsigned char cdb[12] = { 0xa3, 0x0a, [8] = ALLOCATION >> 8, [9] = ALLOCATION & 0xff };
	struct scsi_task *task = scsi_create_task(sizeof(cdb), cdb, SCSI_XFER_READ, ALLOCATION);

	if (task != NULL && iscsi_scsi_command_async(iscsi, lun, task, attempt_callback, NULL, a) != 0) {
		scsi_free_scsi_task(task);
		return NULL;
	}
	return task;
}

static void ask(struct path *path, enum question question)
{
	struct attempt *a = attempt_new(path);
	struct iscsi_context *iscsi = path->session->iscsi;
	int lun = path_lun(path);
	struct scsi_task *task;

	a->question = question;
	if (question == IDENTITY)
		task = iscsi_inquiry_task(iscsi, lun, 1, SCSI_INQUIRY_PAGECODE_DEVICE_IDENTIFICATION, ALLOCATION, attempt_callback, a);
	else if (question == GROUPS)
		task = groups_task(iscsi, lun, a);
	else
		task = iscsi_testunitready_task(iscsi, lun, attempt_callback, a);
	if (attempt_sent(a, task))
		path->asking = question;
}

static void send_command(struct command *command, struct path *path)
{
	struct attempt *a = attempt_new(path);
	struct iscsi_context *iscsi = path->session->iscsi;
	int lun = path_lun(path), block_size = (int)units[path->unit].block_size;
	uint64_t lba = block_size == 0 ? 0 : command->offset / (uint32_t)block_size;
	struct scsi_task *task;

	a->command = command;
	if (command->what == DO_READ)
		task = iscsi_read16_task(iscsi, lun, lba, command->size, block_size, 0, 0, command->fua, 0, 0, attempt_callback, a);
	else if (command->what == DO_WRITE)
		task = iscsi_write16_task(iscsi, lun, lba, command->data, command->size, block_size, 0, 0, command->fua, 0, 0, attempt_callback, a);
	else if (command->what == DO_FLUSH)
		task = iscsi_synchronizecache16_task(iscsi, lun, 0, 0, 0, 0, attempt_callback, a);
	else
		task = iscsi_readcapacity16_task(iscsi, lun, attempt_callback, a);
	if (!attempt_sent(a, task)) {
		wait_more(command);
		return;
	}
	path->in_flight++;
}

/* ---- choosing ---- */

static int rank(enum access access)
{
	switch (access) {
	case OPTIMIZED: return 50;
	case NON_OPTIMIZED: return 10;
	case LBA_DEPENDENT: return 5;
	case STANDBY: return 1;
	default: return 0;
	}
}

static bool usable(const struct path *path)
{
	return path->session->state == UP && !path->session->doomed && path->known;
}

/* A session that was lost a moment ago keeps its place until it is back or the time for it is over. */
static bool awaited(const struct path *path, double now)
{
	const struct session *s = path->session;

	return s->lost_at != 0 && now < s->lost_at + all.target.limits.replacement_s && path->access != UNKNOWN;
}

/* The path by which a unit's commands go now; NULL: they wait. */
static struct path *best(uint32_t unit, double now)
{
	struct path *found = NULL;
	bool found_usable = false;

	for (uint32_t p = 0; p < all.target.portals; p++) {
		struct path *path = &all.session[p].path[unit];
		bool is_usable = usable(path);

		if (!is_usable && !awaited(path, now))
			continue;
		if (found == NULL || rank(path->access) > rank(found->access) ||
		    (rank(path->access) == rank(found->access) &&
		     (is_usable > found_usable || (is_usable == found_usable && path->in_flight < found->in_flight)))) {
			found = path;
			found_usable = is_usable;
		}
	}
	return found == NULL || !found_usable || found->access == TRANSITIONING ? NULL : found;
}

static bool may_go(struct command *command, double now)
{
	if (command->held_by != NULL) {
		if (now < command->held_until && !usable(&command->held_by->path[command->unit]))
			return false;
		command->held_by = NULL;
	}
	return now >= command->not_before;
}

static void dispatch(double now)
{
	for (uint32_t u = 0; u < all.target.units; u++) {
		struct command *command, *next;

		for (command = TAILQ_FIRST(&units[u].waiting); command != NULL; command = next) {
			struct path *path;

			next = TAILQ_NEXT(command, waiting);
			path = may_go(command, now) ? best(u, now) : NULL;
			if (path == NULL)
				continue;
			TAILQ_REMOVE(&units[u].waiting, command, waiting);
			send_command(command, path);
		}
	}
}

void paths_ask(struct session *s, double now)
{
	for (uint32_t u = 0; u < all.target.units && !s->doomed; u++) {
		struct path *path = &s->path[u];

		if (path->asking != NOTHING || now < path->ask_after)
			continue;
		if (!path->identified) {
			ask(path, IDENTITY);
		} else if (path->want_groups) {
			path->want_groups = false;
			ask(path, GROUPS);
		} else if (path->in_flight == 0 && now - path->heard >= CHECK_S) {
			path->want_groups = true;
			ask(path, READY);
		}
	}
}

/* ---- the interface ---- */

bool paths_turn(int wait_ms, int fd)
{
	sessions_tick();
	dispatch(now_s());
	return sessions_poll(wait_ms, fd);
}

void paths_submit(struct command *command)
{
	command->since = now_s();
	command->not_before = 0;
	command->held_by = NULL;
	wait_more(command);
}

static void capacity_answered(struct command *command)
{
	struct unit_state *unit = &units[command->unit];
	uint64_t last = 0;

	if (!command->good)
		die(EXIT_FOUND, "LUN %u: READ CAPACITY(16): %s", all.target.lun[command->unit], command->outcome);
	for (int i = 0; i < 8; i++)
		last = last << 8 | command->data[i];
	unit->block_size = (uint32_t)command->data[8] << 24 | (uint32_t)command->data[9] << 16 | (uint32_t)command->data[10] << 8 | command->data[11];
	if (unit->block_size == 0)
		die(EXIT_FOUND, "LUN %u: blocks of 0 bytes", all.target.lun[command->unit]);
	unit->size = (last + 1) * unit->block_size;
}

/* Which path of a unit is not known, if any. */
static const struct session *unknown(void)
{
	for (uint32_t p = 0; p < all.target.portals; p++)
		for (uint32_t u = 0; u < all.target.units; u++)
			if (!usable(&all.session[p].path[u]))
				return &all.session[p];
	return NULL;
}

void paths_open(const struct paths_target *target, double wait_s)
{
	struct command capacity[UNITS_MAX] = { 0 };
	uint8_t data[UNITS_MAX][CAPACITY_SIZE];

	signal(SIGPIPE, SIG_IGN);
	all.target = *target;
	sessions_begin();
	for (uint32_t u = 0; u < target->units; u++) {
		TAILQ_INIT(&units[u].waiting);
		capacity[u] = (struct command){ .what = DO_CAPACITY, .unit = u, .size = CAPACITY_SIZE, .data = data[u], .done = capacity_answered };
		paths_submit(&capacity[u]);
	}
	for (uint32_t u = 0; u < target->units;) {
		double passed = now_s() - all.begun;

		if (units[u].size != 0 && (passed > ALL_PATHS_S || unknown() == NULL))
			u++;
		else if (passed > wait_s)
			die(EXIT_USAGE, "LUN %u of %s cannot be used within %.0f s; %s: %s", target->lun[u], target->target, wait_s,
			    unknown() != NULL ? unknown()->portal : "the portals", unknown() != NULL ? unknown()->why : "no path is active");
		else
			paths_turn(TURN_MS, -1);
	}
}

uint64_t paths_size(uint32_t unit)
{
	return units[unit].size;
}

uint32_t paths_block_size(uint32_t unit)
{
	return units[unit].block_size;
}

uint64_t paths_late_answers(void)
{
	return all.late_answers;
}

void paths_print(void)
{
	printf(", \"retries\": {");
	for (size_t i = 0; i < REASONS_MAX && reasons[i].count != 0; i++)
		printf("%s\"%s\": %" PRIu64, i == 0 ? "" : ", ", reasons[i].name, reasons[i].count);
	printf("}, \"aborts\": %" PRIu64 ", \"resets\": %" PRIu64 ", \"late_answers\": %" PRIu64 ", \"portals\": {", all.aborts, all.resets, all.late_answers);
	for (uint32_t p = 0; p < all.target.portals; p++)
		printf("%s\"%s\": {\"good\": %" PRIu64 ", \"logins\": %" PRIu64 ", \"losses\": %" PRIu64 "}", p == 0 ? "" : ", ", all.session[p].portal,
		       all.session[p].good, all.session[p].logins, all.session[p].losses);
	printf("}");
}

void paths_close(void)
{
	sessions_close();
}
