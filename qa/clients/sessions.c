#include "sessions.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PAUSE_MIN_S 0.05 /* before a session is made again; doubled with each failure */
#define PAUSE_MAX_S 1.0
#define UNSENT_S 1.0 /* a command that is to be aborted waits for what is queued before it */
#define LOGOUT_S 2.0

const struct limits limits_of_linux = {
	.replacement_s = 5, .give_up_s = 30, .abort_s = 15, .reset_s = 30, .noop_s = 5, .noop_out_s = 5, .login_s = 15,
};

struct management {
	struct session *session;
	struct path *path;
	uint64_t id; /* of the attempt; a reset ends those that are not newer */
	bool reset;
	LIST_ENTRY(management) list;
};

struct sessions all;

void tell(const char *format, ...)
{
	va_list args;

	if (!all.target.verbose)
		return;
	fprintf(stderr, "%9.3f ", now_s() - all.begun);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

void doom(struct session *s, const char *format, ...)
{
	va_list args;

	if (s->doomed)
		return;
	s->doomed = true;
	va_start(args, format);
	vsnprintf(s->why, sizeof(s->why), format, args);
	va_end(args);
}

int path_lun(const struct path *path)
{
	return (int)all.target.lun[path->unit];
}

/* ---- attempts ---- */

struct attempt *attempt_new(struct path *path)
{
	struct attempt *a = calloc(1, sizeof(*a));

	if (a == NULL)
		die(EXIT_USAGE, "out of memory");
	a->path = path;
	a->id = ++all.next_id;
	a->since = now_s();
	return a;
}

/* libiscsi has taken it, or not: then the session is good for nothing. */
bool attempt_sent(struct attempt *a, struct scsi_task *task)
{
	if (task == NULL) {
		doom(a->path->session, "cannot send: %s", iscsi_get_error(a->path->session->iscsi));
		free(a);
		return false;
	}
	a->task = task;
	LIST_INSERT_HEAD(&a->path->session->attempts, a, list);
	return true;
}

void attempt_callback(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
	struct attempt *a = private_data;

	(void)command_data;
	LIST_REMOVE(a, list);
	if (status == (int)SCSI_STATUS_CANCELLED || status == (int)SCSI_STATUS_ERROR || status == (int)SCSI_STATUS_TIMEOUT) {
		/* CANCELLED is all that libiscsi says about a connection that ended. */
		doom(a->path->session, "%s", status == (int)SCSI_STATUS_CANCELLED ? "the connection ended" : iscsi_get_error(iscsi));
		attempt_lost(a);
	} else {
		a->path->heard = now_s();
		attempt_answered(a);
	}
	scsi_free_scsi_task(a->task);
	free(a);
}

/* ---- giving up ---- */

static bool is_orphan(const struct attempt *a)
{
	return a->command == NULL && a->question == NOTHING;
}

static void managed(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
	struct management *m = private_data;
	struct session *s = m->session;
	uint32_t response = status == SCSI_STATUS_GOOD && command_data != NULL ? *(uint32_t *)command_data : UINT32_MAX;
	struct attempt *a;

	(void)iscsi;
	LIST_REMOVE(m, list);
	LIST_FOREACH(a, &s->attempts, list) {
		if (a->path != m->path || is_orphan(a) || (m->reset ? a->id > m->id : a->id != m->id))
			continue;
		if (response == ISCSI_TMR_FUNC_COMPLETE)
			attempt_ended(a);
		else if (!m->reset)
			a->step = REFUSED;
		else
			doom(s, "LOGICAL UNIT RESET was answered with %#x", response);
	}
	free(m);
}

static void set_step(struct attempt *a, enum step step)
{
	a->step = step;
	a->step_since = now_s();
}

static void manage(struct attempt *a, bool reset)
{
	struct session *s = a->path->session;
	struct management *m = calloc(1, sizeof(*m));
	struct attempt *other;

	if (m == NULL)
		die(EXIT_USAGE, "out of memory");
	*m = (struct management){ .session = s, .path = a->path, .id = reset ? all.next_id : a->id, .reset = reset };
	tell("lun %d by %s: no answer for %.1f s: %s", path_lun(a->path), s->portal, now_s() - a->since, reset ? "LOGICAL UNIT RESET" : "ABORT TASK");
	LIST_INSERT_HEAD(&s->managements, m, list);
	if (iscsi_task_mgmt_async(s->iscsi, path_lun(a->path), reset ? ISCSI_TM_LUN_RESET : ISCSI_TM_ABORT_TASK, reset ? 0xffffffff : a->task->itt,
				  reset ? 0 : a->task->cmdsn, managed, m) != 0)
		doom(s, "cannot send task management: %s", iscsi_get_error(s->iscsi));
	if (!reset) {
		set_step(a, ABORTING);
		all.aborts++;
		return;
	}
	all.resets++;
	LIST_FOREACH(other, &s->attempts, list)
		if (other->path == a->path)
			set_step(other, RESETTING);
}

/* Whether libiscsi has something to send that it has not sent. What it holds could go out after its command was ended and sent by another path. */
static bool unsent(struct session *s, double now)
{
	if (iscsi_out_queue_length(s->iscsi) == 0 && (iscsi_which_events(s->iscsi) & POLLOUT) == 0) {
		s->unsent_since = 0;
		return false;
	}
	if (s->unsent_since == 0)
		s->unsent_since = now;
	else if (now - s->unsent_since >= UNSENT_S)
		doom(s, "a command is to be aborted, and not all is sent for %.1f s", now - s->unsent_since);
	return true;
}

/* One step of one attempt at a time, so that what is queued is only what the target does not take. */
static void give_up_late(struct session *s, double now)
{
	const struct limits *limits = &all.target.limits;
	struct attempt *a;

	LIST_FOREACH(a, &s->attempts, list) {
		bool abort = a->step == SENT && now - a->since >= limits->give_up_s;
		bool reset = a->step == REFUSED || (a->step == ABORTING && now - a->step_since >= limits->abort_s);

		if (is_orphan(a))
			continue;
		if (a->step == RESETTING && now - a->step_since >= limits->reset_s)
			doom(s, "no answer to LOGICAL UNIT RESET for %.0f s", limits->reset_s);
		else if ((abort || reset) && !unsent(s, now))
			manage(a, reset);
		else if (!abort && !reset)
			continue;
		return;
	}
}

/* ---- sessions ---- */

static void session_drop(struct session *s)
{
	double now = now_s();
	struct attempt *a;
	struct management *m;

	if (s->state == UP) {
		s->losses += !all.closing;
		s->lost_at = now;
		s->pause = PAUSE_MIN_S;
		tell("%s is lost: %s", s->portal, s->why);
	} else {
		s->pause = s->pause * 2 > PAUSE_MAX_S ? PAUSE_MAX_S : s->pause * 2;
	}
	LIST_FOREACH(a, &s->attempts, list)
		attempt_lost(a);
	if (s->iscsi != NULL)
		iscsi_destroy_context(s->iscsi);
	s->iscsi = NULL;
	/* Those whose callbacks libiscsi did not call. */
	while ((a = LIST_FIRST(&s->attempts)) != NULL) {
		LIST_REMOVE(a, list);
		scsi_free_scsi_task(a->task);
		free(a);
	}
	while ((m = LIST_FIRST(&s->managements)) != NULL) {
		LIST_REMOVE(m, list);
		free(m);
	}
	for (uint32_t u = 0; u < all.target.units; u++)
		s->path[u].known = false;
	s->state = DOWN;
	s->doomed = false;
	s->next_try = now + s->pause;
}

static void logged_in(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
	struct session *s = private_data;

	(void)command_data;
	if (iscsi != s->iscsi)
		return;
	if (status != SCSI_STATUS_GOOD) {
		doom(s, "login: %s", iscsi_get_error(iscsi));
		return;
	}
	s->state = UP;
	s->since = s->heard = now_s();
	s->noop_since = s->unsent_since = 0;
	s->logins++;
	tell("%s is logged in", s->portal);
	for (uint32_t u = 0; u < all.target.units; u++) {
		s->path[u].identified = s->path[u].known = false;
		s->path[u].ask_after = 0;
	}
}

static void connected(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
	struct session *s = private_data;

	(void)command_data;
	if (iscsi != s->iscsi)
		return;
	if (status != SCSI_STATUS_GOOD || s->state != CONNECTING) {
		doom(s, "%s", iscsi_get_error(iscsi));
		return;
	}
	s->state = LOGIN;
	if (iscsi_login_async(iscsi, logged_in, s) != 0)
		doom(s, "login: %s", iscsi_get_error(iscsi));
}

static void session_begin(struct session *s)
{
	s->iscsi = iscsi_create_context(all.target.initiator);
	if (s->iscsi == NULL)
		die(EXIT_USAGE, "cannot create an iSCSI context for %s", all.target.initiator);
	iscsi_set_targetname(s->iscsi, all.target.target);
	iscsi_set_session_type(s->iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_noautoreconnect(s->iscsi, 1);
	iscsi_set_timeout(s->iscsi, 0);
	iscsi_set_isid_random(s->iscsi, all.isid, s->index);
	s->state = CONNECTING;
	s->since = now_s();
	if (iscsi_connect_async(s->iscsi, s->portal, connected, s) != 0)
		doom(s, "%s", iscsi_get_error(s->iscsi));
}

static void ignored(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
	(void)iscsi, (void)status, (void)command_data, (void)private_data;
}

/* A session that says nothing is asked, and dropped when it does not answer. */
static void watch_silence(struct session *s, double now)
{
	const struct limits *limits = &all.target.limits;

	if (now - s->heard < limits->noop_s) {
		s->noop_since = 0;
	} else if (s->noop_since == 0) {
		s->noop_since = now;
		if (iscsi_nop_out_async(s->iscsi, ignored, NULL, 0, NULL) != 0)
			doom(s, "cannot send NOP-Out: %s", iscsi_get_error(s->iscsi));
	} else if (now - s->noop_since >= limits->noop_out_s) {
		doom(s, "no answer to NOP-Out for %.1f s", now - s->noop_since);
	}
}

static void session_tick(struct session *s, double now)
{
	if (s->doomed)
		session_drop(s);
	if (s->state == DOWN && now >= s->next_try)
		session_begin(s);
	else if ((s->state == CONNECTING || s->state == LOGIN) && now - s->since >= all.target.limits.login_s)
		doom(s, "no login within %.0f s", all.target.limits.login_s);
	if (s->state != UP || s->doomed)
		return;
	watch_silence(s, now);
	if (!s->doomed)
		give_up_late(s, now);
	if (!s->doomed)
		paths_ask(s, now);
}

static void session_service(struct session *s, short revents)
{
	if (s->state >= LOGIN && (revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
		char byte;
		ssize_t got = recv(iscsi_get_fd(s->iscsi), &byte, 1, MSG_PEEK | MSG_DONTWAIT);

		/* libiscsi, told not to reconnect, does not say that a connection has ended. */
		if (got == 0)
			doom(s, "the target closed the connection");
		else if (got < 0 && errno != EAGAIN && errno != EINTR)
			doom(s, "%s", strerror(errno));
		else if (got > 0)
			s->heard = now_s();
	}
	if (!s->doomed && iscsi_service(s->iscsi, revents) != 0)
		doom(s, "%s", iscsi_get_error(s->iscsi));
	if (!s->doomed && s->state == UP && !iscsi_is_logged_in(s->iscsi))
		doom(s, "logged out, as the target asked");
}

static void logged_out(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
	(void)iscsi, (void)status, (void)command_data;
	doom(private_data, "logged out");
}

/* ---- all of them ---- */

void sessions_begin(void)
{
	struct random r;

	all.begun = now_s();
	random_seed(&r, (uint64_t)(all.begun * 1e9));
	all.isid = (uint32_t)random_below(&r, 1 << 24);
	for (uint32_t p = 0; p < all.target.portals; p++) {
		struct session *s = &all.session[p];

		*s = (struct session){ .portal = all.target.portal[p], .index = p, .pause = PAUSE_MIN_S };
		for (uint32_t u = 0; u < all.target.units; u++)
			s->path[u] = (struct path){ .session = s, .unit = u, .access = UNKNOWN };
	}
}

void sessions_tick(void)
{
	double now = now_s();

	for (uint32_t p = 0; p < all.target.portals; p++)
		session_tick(&all.session[p], now);
}

bool sessions_poll(int wait_ms, int fd)
{
	struct pollfd fds[PORTALS_MAX + 1];
	struct session *of[PORTALS_MAX];
	nfds_t count = 0;

	for (uint32_t p = 0; p < all.target.portals; p++) {
		struct session *s = &all.session[p];

		if (s->state == DOWN || s->doomed)
			continue;
		of[count] = s;
		fds[count++] = (struct pollfd){ .fd = iscsi_get_fd(s->iscsi), .events = (short)iscsi_which_events(s->iscsi) };
	}
	fds[count] = (struct pollfd){ .fd = fd, .events = POLLIN };
	if (poll(fds, count + 1, wait_ms < TURN_MS ? wait_ms : TURN_MS) < 0) {
		if (errno != EINTR)
			die(EXIT_USAGE, "poll: %s", strerror(errno));
		return false;
	}
	for (nfds_t i = 0; i < count; i++)
		if (fds[i].revents != 0)
			session_service(of[i], fds[i].revents);
	return (fds[count].revents & (POLLIN | POLLHUP)) != 0;
}

/* Whether all logouts were answered, or cannot be. */
static bool all_doomed(void)
{
	for (uint32_t p = 0; p < all.target.portals; p++)
		if (!all.session[p].doomed)
			return false;
	return true;
}

void sessions_close(void)
{
	double end = now_s() + LOGOUT_S;

	all.closing = true;
	for (uint32_t p = 0; p < all.target.portals; p++)
		if (all.session[p].state != UP || iscsi_logout_async(all.session[p].iscsi, logged_out, &all.session[p]) != 0)
			doom(&all.session[p], "not logged in");
	while (!all_doomed() && now_s() < end)
		sessions_poll(TURN_MS, -1);
	for (uint32_t p = 0; p < all.target.portals; p++)
		session_drop(&all.session[p]);
}
