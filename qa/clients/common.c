#include "common.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Between two login attempts: short beside the times that are measured, long beside a loopback connect. */
#define LOGIN_PAUSE_S 0.02

void die(int code, const char *format, ...)
{
	va_list args;

	fflush(stdout);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(code);
}

double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void sleep_s(double seconds)
{
	struct timespec t = { .tv_sec = (time_t)seconds };

	t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

static struct iscsi_context *login_once(const struct target *target, int *lun, char *reason, size_t reason_size)
{
	struct iscsi_context *iscsi = iscsi_create_context(target->initiator);
	struct iscsi_url *url;

	/* libiscsi writes to sockets whose other end may be gone; that is to be an error, not the end of the client. */
	signal(SIGPIPE, SIG_IGN);
	if (iscsi == NULL)
		die(EXIT_USAGE, "cannot create an iSCSI context for %s", target->initiator);
	url = iscsi_parse_full_url(iscsi, target->url);
	if (url == NULL)
		die(EXIT_USAGE, "bad URL %s: %s", target->url, iscsi_get_error(iscsi));
	iscsi_set_targetname(iscsi, url->target);
	iscsi_set_session_type(iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_noautoreconnect(iscsi, 1);
	iscsi_set_timeout(iscsi, target->timeout_s);
	if (target->isid != 0)
		iscsi_set_isid_random(iscsi, target->isid & 0xffffff, 0);
	*lun = url->lun;
	if (iscsi_connect_sync(iscsi, url->portal) != 0 || iscsi_login_sync(iscsi) != 0) {
		snprintf(reason, reason_size, "%s", iscsi_get_error(iscsi));
		iscsi_destroy_url(url);
		iscsi_destroy_context(iscsi);
		return NULL;
	}
	iscsi_destroy_url(url);
	return iscsi;
}

struct iscsi_context *session_open(const struct target *target, int *lun, char *reason, size_t reason_size)
{
	double deadline = now_s() + target->retry_s;
	char own[256];

	if (reason == NULL) {
		reason = own;
		reason_size = sizeof(own);
	}
	for (;;) {
		struct iscsi_context *iscsi = login_once(target, lun, reason, reason_size);

		if (iscsi != NULL || now_s() >= deadline)
			return iscsi;
		sleep_s(LOGIN_PAUSE_S);
	}
}

/* Reads the capacity; unit attentions of a new nexus, and "not ready yet", are asked again until the deadline. */
static bool capacity(struct unit *unit, double deadline, char *reason, size_t reason_size)
{
	for (;;) {
		struct scsi_task *task = iscsi_readcapacity16_sync(unit->iscsi, unit->lun);
		bool lost = task == NULL || task->status >= (int)SCSI_STATUS_CANCELLED;
		struct scsi_readcapacity16 *answer = NULL;

		if (task != NULL && task->status == SCSI_STATUS_GOOD)
			answer = scsi_datain_unmarshall(task);
		if (answer != NULL && answer->block_length != 0) {
			unit->block_size = answer->block_length;
			unit->blocks = answer->returned_lba + 1;
			scsi_free_scsi_task(task);
			return true;
		}
		if (task != NULL && task->status != SCSI_STATUS_GOOD)
			outcome(task, reason, reason_size);
		else
			snprintf(reason, reason_size, "no answer to READ CAPACITY(16): %s", iscsi_get_error(unit->iscsi));
		bool attention = task != NULL && task->status == SCSI_STATUS_CHECK_CONDITION && task->sense.key == SCSI_SENSE_UNIT_ATTENTION;
		if (task != NULL)
			scsi_free_scsi_task(task);
		if (lost || (!attention && now_s() >= deadline))
			return false;
		if (!attention)
			sleep_s(LOGIN_PAUSE_S);
	}
}

bool unit_open(const struct target *target, struct unit *unit, char *reason, size_t reason_size)
{
	double deadline = now_s() + target->retry_s;
	char own[256];

	if (reason == NULL) {
		reason = own;
		reason_size = sizeof(own);
	}
	for (;;) {
		unit->iscsi = login_once(target, &unit->lun, reason, reason_size);
		if (unit->iscsi != NULL) {
			if (capacity(unit, deadline, reason, reason_size))
				return true;
			iscsi_destroy_context(unit->iscsi);
			unit->iscsi = NULL;
		}
		if (now_s() >= deadline)
			return false;
		sleep_s(LOGIN_PAUSE_S);
	}
}

void unit_close(struct unit *unit)
{
	if (unit->iscsi == NULL)
		return;
	iscsi_logout_sync(unit->iscsi);
	iscsi_destroy_context(unit->iscsi);
	unit->iscsi = NULL;
}

bool session_turn(struct iscsi_context *iscsi, int wait_ms)
{
	struct pollfd p = { .fd = iscsi_get_fd(iscsi), .events = (short)iscsi_which_events(iscsi) };

	if (poll(&p, 1, wait_ms) < 0 && errno != EINTR)
		die(EXIT_USAGE, "poll: %s", strerror(errno));
	return iscsi_service(iscsi, p.revents) == 0;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t size)
{
	static uint32_t table[256];
	const uint8_t *p = data;

	if (table[1] == 0) {
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t c = i;

			for (int bit = 0; bit < 8; bit++)
				c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
			table[i] = c;
		}
	}
	crc = ~crc;
	while (size-- > 0)
		crc = crc >> 8 ^ table[(crc ^ *p++) & 0xff];
	return ~crc;
}

void random_seed(struct random *r, uint64_t seed)
{
	r->state = seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
	if (r->state == 0)
		r->state = 1;
}

uint64_t random_next(struct random *r)
{
	r->state ^= r->state >> 12;
	r->state ^= r->state << 25;
	r->state ^= r->state >> 27;
	return r->state * 0x2545f4914f6cdd1dull;
}

uint64_t random_below(struct random *r, uint64_t bound)
{
	return (random_next(r) >> 11) % bound;
}

uint64_t number(const char *text, const char *what)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno != 0 || end == text || *end != '\0')
		die(EXIT_USAGE, "%s: '%s' is not a number", what, text);
	return value;
}

const char *outcome(const struct scsi_task *task, char *buffer, size_t size)
{
	switch (task->status) {
	case SCSI_STATUS_GOOD:
		snprintf(buffer, size, "good");
		break;
	case SCSI_STATUS_CHECK_CONDITION:
		snprintf(buffer, size, "%02x/%02x/%02x", (unsigned)task->sense.key, (unsigned)task->sense.ascq >> 8 & 0xff, (unsigned)task->sense.ascq & 0xff);
		break;
	case SCSI_STATUS_CANCELLED:
		snprintf(buffer, size, "cancelled");
		break;
	case SCSI_STATUS_ERROR:
		snprintf(buffer, size, "error");
		break;
	case SCSI_STATUS_TIMEOUT:
		snprintf(buffer, size, "timeout");
		break;
	default:
		snprintf(buffer, size, "status %02x", (unsigned)task->status);
		break;
	}
	return buffer;
}
