/* Many sessions that each do the worst that the protocol allows to a target's memory.
 *
 *   flood ADDRESS PORT IQN LUN [--writers N] [--readers N] [--tasks N] [--bytes N] [--hold SECONDS] [--limit SECONDS]
 *
 * It speaks just enough iSCSI on plain sockets, since libiscsi would not misbehave: each writer sends as many WRITEs as the command window allows, with all their
 * immediate data but the last PIECE, and withholds the rest; each reader sends READs and takes nothing from its socket. Once nothing moves any more the flood says
 * "holding BYTES" (sent so far), holds for --hold seconds, and then finishes everything as a well-behaved initiator would: R2Ts are answered, withheld data
 * follows, answers are read, the remaining commands are sent, and those that were answered with BUSY or TASK SET FULL are sent again. Target pings are answered wherever the session reads.
 *
 * Prints a JSON report. A session ends as `finished` (each task GOOD), `failed` (a task ended otherwise), `dropped` (the target closed the connection) or `stuck`
 * (neither within --limit). EXIT_FOUND if a writer did not finish, or any session is stuck or failed; the target may drop those who do not read. */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	BHS = 48,
	BUSY = 0x08,
	TASK_SET_FULL = 0x28,
	PIECE = 4096,             /* bytes of each write that are withheld while holding */
	TASKS_MAX = 4096,
	BYTES_MAX = 1 << 20,
	SESSIONS_MAX = 4096,
	READER_BUFFER = 64 << 10, /* SO_RCVBUF of readers: little is hidden in the socket */
	LOGIN_S = 20,
	QUIET_MS = 1500,          /* nothing moved for so long: the target has stopped reading */
	BLOCK = 512,
};

/* Opcodes, RFC 7143 11.2.1.2. */
enum {
	NOP_OUT = 0x00,
	SCSI_COMMAND = 0x01,
	LOGIN = 0x03,
	DATA_OUT = 0x05,
	NOP_IN = 0x20,
	SCSI_RESPONSE = 0x21,
	LOGIN_RESPONSE = 0x23,
	DATA_IN = 0x25,
	R2T = 0x31,
	REJECT = 0x3f,
	IMMEDIATE = 0x40,
};

#define PAUSE_S 0.1
#define NO_TAG 0xffffffffu
/* The tag of the TEST UNIT READY that takes the unit attention; tasks have 0 and up. */
#define FIRST_TAG 0xfffffff0u

/* Data that a target asked for, or that we owe it. */
struct owed {
	uint32_t tag, transfer_tag, offset, length;
};

struct session {
	int fd;
	bool reader;
	enum { RUNNING, FINISHED, FAILED, DROPPED, STUCK } end;
	uint32_t cmd_sn, exp_stat_sn, max_cmd_sn;
	uint32_t immediate; /* bytes of a write that go with its command */
	bool unsolicited;   /* the withheld rest is unsolicited data: no R2T will come for it */
	uint32_t segment;   /* the target's MaxRecvDataSegmentLength */
	uint32_t sent_tasks, ended_tasks;
	uint32_t refused;   /* BUSY or TASK SET FULL: to be sent again */
	double pause_until; /* after a refusal */
	uint64_t sent_bytes;
	/* The PDU that is being sent. */
	uint8_t header[BHS];
	uint32_t header_sent, data_size, data_sent;
	bool sending;
	struct owed *owed;
	uint32_t owed_first, owed_count;
	uint32_t data_sn;
	bool ping;
	uint32_t ping_tag;
	uint64_t ping_lun;
	/* The PDU that is being received: its header, then what is left of its body. */
	uint8_t in[BHS];
	uint32_t in_size, in_body;
	char why[128];
};

static struct {
	uint32_t writers, readers, tasks, bytes;
	double hold, limit;
	const char *iqn;
	uint64_t lun;
	struct sockaddr_in to;
	uint8_t pattern[BYTES_MAX];
} flood = { .writers = 100, .readers = 100, .tasks = 128, .bytes = 256 << 10, .hold = 5, .limit = 120 };

static void put16(uint8_t *at, uint32_t v)
{
	at[0] = (uint8_t)(v >> 8);
	at[1] = (uint8_t)v;
}

static void put24(uint8_t *at, uint32_t v)
{
	at[0] = (uint8_t)(v >> 16);
	put16(at + 1, v & 0xffff);
}

static void put32(uint8_t *at, uint32_t v)
{
	put16(at, v >> 16);
	put16(at + 2, v & 0xffff);
}

static uint32_t get24(const uint8_t *at)
{
	return (uint32_t)at[0] << 16 | (uint32_t)at[1] << 8 | at[2];
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | get24(at + 1);
}

/* a comes after b in serial arithmetic (RFC 1982). */
static bool serial_after(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0;
}

static uint32_t padded(uint32_t size)
{
	return (size + 3) & ~3u;
}

static void finish(struct session *s, int end, const char *why)
{
	if (s->end != RUNNING)
		return;
	s->end = end;
	snprintf(s->why, sizeof(s->why), "%s", why);
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

/* ---- login, with a blocking socket ---- */

static void all_of(struct session *s, void *data, size_t size, bool sending)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = sending ? send(s->fd, (char *)data + done, size - done, MSG_NOSIGNAL) : recv(s->fd, (char *)data + done, size - done, 0);

		if (n <= 0)
			die(EXIT_FOUND, "login: %s", n == 0 ? "the target closed the connection" : strerror(errno));
		done += (size_t)n;
	}
}

static bool key_value(const char *text, size_t size, const char *key, char *value, size_t value_size)
{
	for (size_t at = 0; at < size; at += strnlen(text + at, size - at) + 1) {
		size_t length = strlen(key);

		if (strncmp(text + at, key, length) == 0 && text[at + length] == '=') {
			snprintf(value, value_size, "%s", text + at + length + 1);
			return true;
		}
	}
	return false;
}

static void login(struct session *s, uint32_t index)
{
	char text[2048], answer[8193], value[256];
	uint8_t pdu[BHS] = { 0 };
	uint32_t first_burst = 65536;
	bool immediate = true, initial_r2t = true;
	int size = snprintf(text, sizeof(text),
			    "InitiatorName=iqn.2026-11.io.lus.qa:flood-%u%cTargetName=%s%cSessionType=Normal%cHeaderDigest=None%cDataDigest=None%c"
			    "InitialR2T=No%cImmediateData=Yes%cFirstBurstLength=262144%cMaxBurstLength=1048576%cMaxRecvDataSegmentLength=262144%c"
			    "MaxOutstandingR2T=1%cMaxConnections=1%cErrorRecoveryLevel=0%cDefaultTime2Wait=2%cDefaultTime2Retain=0%c"
			    "DataPDUInOrder=Yes%cDataSequenceInOrder=Yes%c",
			    index, 0, flood.iqn, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);

	s->segment = 8192;
	pdu[0] = IMMEDIATE | LOGIN;
	pdu[1] = 0x87; /* transit from operational negotiation to the full feature phase */
	put24(pdu + 5, (uint32_t)size);
	pdu[8] = 0x80; /* ISID: random format, the session's number */
	put24(pdu + 9, index + 1);
	memset(text + size, 0, 3);
	for (int round = 0; round < 8; round++) {
		uint8_t response[BHS];
		uint32_t length;

		all_of(s, pdu, BHS, true);
		all_of(s, text, padded(get24(pdu + 5)), true);
		all_of(s, response, BHS, false);
		length = get24(response + 5);
		if ((response[0] & 0x3f) != LOGIN_RESPONSE || padded(length) >= sizeof(answer) || response[36] != 0)
			die(EXIT_FOUND, "login of session %u refused: opcode %02x, status %02x%02x", index, response[0] & 0x3f, response[36], response[37]);
		all_of(s, answer, padded(length), false);
		answer[length] = '\0';
		if (key_value(answer, length, "MaxRecvDataSegmentLength", value, sizeof(value)))
			s->segment = (uint32_t)number(value, "a login key");
		if (key_value(answer, length, "FirstBurstLength", value, sizeof(value)))
			first_burst = (uint32_t)number(value, "a login key");
		if (key_value(answer, length, "ImmediateData", value, sizeof(value)))
			immediate = strcmp(value, "Yes") == 0;
		if (key_value(answer, length, "InitialR2T", value, sizeof(value)))
			initial_r2t = strcmp(value, "Yes") == 0;
		s->exp_stat_sn = get32(response + 24) + 1;
		s->cmd_sn = get32(response + 28);
		s->max_cmd_sn = get32(response + 32);
		if (response[1] & 0x80 && (response[1] & 3) == 3) {
			uint32_t most = flood.bytes - PIECE;

			if (most > first_burst)
				most = first_burst;
			if (most > s->segment)
				most = s->segment;
			s->immediate = immediate ? most : 0;
			/* Where unsolicited data may follow, every second session owes it instead of awaiting an R2T. */
			s->unsolicited = !initial_r2t && index % 2 == 1 && s->immediate + PIECE == flood.bytes && flood.bytes <= first_burst;
			return;
		}
		put24(pdu + 5, 0);
		put32(pdu + 28, s->exp_stat_sn);
	}
	die(EXIT_FOUND, "login of session %u does not end", index);
}

static void session_begin(struct session *s, uint32_t number)
{
	struct timeval limit = { .tv_sec = LOGIN_S };
	int one = 1, small = READER_BUFFER;

	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		die(EXIT_USAGE, "socket: %s", strerror(errno));
	if (s->reader)
		setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(s->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(s->fd, (struct sockaddr *)&flood.to, sizeof(flood.to)) < 0)
		die(EXIT_FOUND, "session %u cannot connect: %s", number, strerror(errno));
	login(s, number);
	s->owed = calloc(flood.tasks, sizeof(*s->owed));
	if (s->owed == NULL)
		die(EXIT_USAGE, "out of memory");
}

/* ---- PDUs out ---- */

static void owe(struct session *s, uint32_t tag, uint32_t transfer_tag, uint32_t offset, uint32_t length)
{
	if (s->owed_count == flood.tasks) {
		finish(s, FAILED, "more R2Ts than tasks");
		return;
	}
	s->owed[(s->owed_first + s->owed_count++) % flood.tasks] = (struct owed){ tag, transfer_tag, offset, length };
}

static void pdu_begin(struct session *s, uint32_t data_size)
{
	s->header_sent = s->data_sent = 0;
	s->data_size = data_size;
	put24(s->header + 5, data_size);
	s->sending = true;
}

static void command_header(struct session *s, uint32_t tag, uint8_t flags, uint32_t length)
{
	memset(s->header, 0, BHS);
	s->header[0] = SCSI_COMMAND;
	s->header[1] = flags;
	put16(s->header + 8, (uint32_t)flood.lun & 0x3fff);
	put32(s->header + 16, tag);
	put32(s->header + 20, length);
	put32(s->header + 24, s->cmd_sn++);
	put32(s->header + 28, s->exp_stat_sn);
}

static void next_command(struct session *s)
{
	uint32_t tag = s->sent_tasks++;
	uint8_t *cdb;

	/* F: nothing unsolicited follows; R or W; simple task. */
	command_header(s, tag, s->reader ? 0xc1 : (uint8_t)(0x21 | (s->unsolicited ? 0 : 0x80)), flood.bytes);
	cdb = s->header + 32;
	cdb[0] = s->reader ? 0x88 : 0x8a; /* READ(16), WRITE(16) */
	put32(cdb + 6, tag * (flood.bytes / BLOCK));
	put32(cdb + 10, flood.bytes / BLOCK);
	pdu_begin(s, s->reader ? 0 : s->immediate);
	if (s->unsolicited)
		owe(s, tag, NO_TAG, s->immediate, PIECE);
}

/* The next PDU of the data that is owed longest. */
static void next_data(struct session *s)
{
	struct owed *o = &s->owed[s->owed_first];
	uint32_t size = o->length < s->segment ? o->length : s->segment;

	memset(s->header, 0, BHS);
	s->header[0] = DATA_OUT;
	s->header[1] = size == o->length ? 0x80 : 0;
	put16(s->header + 8, (uint32_t)flood.lun & 0x3fff);
	put32(s->header + 16, o->tag);
	put32(s->header + 20, o->transfer_tag);
	put32(s->header + 28, s->exp_stat_sn);
	put32(s->header + 36, s->data_sn++);
	put32(s->header + 40, o->offset);
	pdu_begin(s, size);
	o->offset += size;
	o->length -= size;
	if (o->length == 0) {
		s->owed_first = (s->owed_first + 1) % flood.tasks;
		s->owed_count--;
		s->data_sn = 0;
	}
}

static void next_ping(struct session *s)
{
	memset(s->header, 0, BHS);
	s->header[0] = IMMEDIATE | NOP_OUT;
	s->header[1] = 0x80;
	memcpy(s->header + 8, &s->ping_lun, 8);
	put32(s->header + 16, NO_TAG);
	put32(s->header + 20, s->ping_tag);
	put32(s->header + 24, s->cmd_sn);
	put32(s->header + 28, s->exp_stat_sn);
	pdu_begin(s, 0);
	s->ping = false;
}

/* May the session send a command now? While holding, nothing is sent again. */
static bool may_command(const struct session *s, bool holding)
{
	uint32_t tasks = flood.tasks + (holding ? 0 : s->refused);

	return s->sent_tasks < tasks && !serial_after(s->cmd_sn, s->max_cmd_sn) && (s->refused == 0 || now_s() >= s->pause_until);
}

/* Chooses what to send next; false when there is nothing. */
static bool pdu_next(struct session *s, bool holding)
{
	if (s->ping)
		next_ping(s);
	else if (!holding && s->owed_count > 0)
		next_data(s);
	else if (may_command(s, holding))
		next_command(s);
	else
		return false;
	return true;
}

/* Sends as much as the socket takes; true if anything moved. */
static bool push(struct session *s, bool holding)
{
	bool moved = false;

	while (s->end == RUNNING && (s->sending || pdu_next(s, holding))) {
		bool in_header = s->header_sent < BHS;
		const uint8_t *from = in_header ? s->header + s->header_sent : flood.pattern + s->data_sent;
		size_t size = in_header ? BHS - s->header_sent : padded(s->data_size) - s->data_sent;
		ssize_t n = send(s->fd, from, size, MSG_NOSIGNAL | (in_header && s->data_size > 0 ? MSG_MORE : 0));

		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				finish(s, DROPPED, strerror(errno));
			return moved;
		}
		/* Pings go on for ever. */
		moved |= (s->header[0] & 0x3f) != NOP_OUT;
		s->sent_bytes += (uint64_t)n;
		if (in_header)
			s->header_sent += (uint32_t)n;
		else
			s->data_sent += (uint32_t)n;
		if (s->header_sent == BHS && s->data_sent == padded(s->data_size))
			s->sending = false;
	}
	return moved;
}

/* ---- PDUs in ---- */

/* What is owed to a task that has ended is not sent. */
static void forget(struct session *s, uint32_t tag)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < s->owed_count; i++) {
		struct owed *o = &s->owed[(s->owed_first + i) % flood.tasks];

		if (o->tag != tag || (i == 0 && s->data_sn > 0))
			s->owed[(s->owed_first + kept++) % flood.tasks] = *o;
	}
	s->owed_count = kept;
}

static void ended(struct session *s, uint32_t tag, uint8_t status)
{
	char why[64];

	if (status == BUSY || status == TASK_SET_FULL) {
		s->refused++;
		s->pause_until = now_s() + PAUSE_S;
		forget(s, tag);
		return;
	}
	if (status != 0) {
		snprintf(why, sizeof(why), "status %02x", status);
		finish(s, FAILED, why);
		return;
	}
	if (++s->ended_tasks == flood.tasks)
		finish(s, FINISHED, "");
}

static void received(struct session *s)
{
	const uint8_t *h = s->in;
	uint8_t opcode = h[0] & 0x3f;
	char why[64];

	if (opcode == SCSI_RESPONSE || opcode == R2T || opcode == NOP_IN || (opcode == DATA_IN && h[1] & 1)) {
		if (opcode == SCSI_RESPONSE || opcode == DATA_IN)
			s->exp_stat_sn = get32(h + 24) + 1;
		if (serial_after(get32(h + 32), s->max_cmd_sn))
			s->max_cmd_sn = get32(h + 32);
	}
	switch (opcode) {
	case SCSI_RESPONSE:
		ended(s, get32(h + 16), h[2] != 0 ? 0xff : h[3]);
		break;
	case DATA_IN:
		if (h[1] & 1)
			ended(s, get32(h + 16), h[3]);
		break;
	case R2T:
		owe(s, get32(h + 16), get32(h + 20), get32(h + 40), get32(h + 44));
		break;
	case NOP_IN:
		if (get32(h + 20) != NO_TAG) {
			s->ping = true;
			s->ping_tag = get32(h + 20);
			memcpy(&s->ping_lun, h + 8, 8);
		}
		break;
	default:
		snprintf(why, sizeof(why), "opcode %02x, reason %02x", opcode, h[2]);
		finish(s, FAILED, why);
	}
}

/* Takes what has arrived; true if anything moved. */
static bool pull(struct session *s)
{
	static uint8_t waste[256 << 10];
	bool moved = false;

	while (s->end == RUNNING) {
		bool in_header = s->in_size < BHS;
		size_t size = in_header ? BHS - s->in_size : s->in_body < sizeof(waste) ? s->in_body : sizeof(waste);
		ssize_t n = recv(s->fd, in_header ? s->in + s->in_size : waste, size, MSG_DONTWAIT);

		if (n == 0)
			finish(s, DROPPED, "closed by the target");
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			finish(s, DROPPED, strerror(errno));
		if (n <= 0)
			return moved;
		if (in_header) {
			s->in_size += (uint32_t)n;
			if (s->in_size < BHS)
				continue;
			moved |= (s->in[0] & 0x3f) != NOP_IN;
			s->in_body = padded(get24(s->in + 5)) + 4u * s->in[4];
		} else {
			moved = true;
			s->in_body -= (uint32_t)n;
		}
		if (s->in_body == 0) {
			s->in_size = 0;
			received(s);
		}
	}
	return moved;
}

/* A new nexus owes its initiator a unit attention: one TEST UNIT READY takes it, whatever it answers. */
static void take_attention(struct session *s)
{
	uint8_t response[BHS];
	uint8_t waste[8192];
	uint32_t size;

	command_header(s, FIRST_TAG, 0x81, 0);
	put24(s->header + 5, 0);
	all_of(s, s->header, BHS, true);
	do {
		all_of(s, response, BHS, false);
		size = padded(get24(response + 5));
		if (size > sizeof(waste))
			die(EXIT_FOUND, "an answer to TEST UNIT READY of %u bytes", size);
		all_of(s, waste, size, false);
	} while ((response[0] & 0x3f) != SCSI_RESPONSE);
	s->exp_stat_sn = get32(response + 24) + 1;
	if (serial_after(get32(response + 32), s->max_cmd_sn))
		s->max_cmd_sn = get32(response + 32);
	if (fcntl(s->fd, F_SETFL, O_NONBLOCK) < 0)
		die(EXIT_USAGE, "fcntl: %s", strerror(errno));
}

/* ---- all of them ---- */

/* One turn over all sessions; true if anything moved. While holding, readers do not read. */
static bool turn(struct session *all, uint32_t count, bool holding)
{
	static struct pollfd polls[SESSIONS_MAX];
	bool moved = false;

	for (uint32_t i = 0; i < count; i++) {
		struct session *s = &all[i];
		bool wants_out = s->sending || s->ping || (!holding && s->owed_count > 0) || may_command(s, holding);

		polls[i] = (struct pollfd){ .fd = s->fd, .events = (short)((holding && s->reader ? 0 : POLLIN) | (wants_out ? POLLOUT : 0)) };
	}
	if (poll(polls, count, 50) < 0 && errno != EINTR)
		die(EXIT_USAGE, "poll: %s", strerror(errno));
	for (uint32_t i = 0; i < count; i++) {
		struct session *s = &all[i];

		if (s->fd < 0 || polls[i].revents == 0)
			continue;
		if (polls[i].revents & (POLLERR | POLLNVAL))
			finish(s, DROPPED, "reset by the target");
		else if (polls[i].revents & (POLLIN | POLLHUP) && !(holding && s->reader))
			moved |= pull(s);
		if (s->end == RUNNING && polls[i].revents & POLLOUT)
			moved |= push(s, holding);
	}
	return moved;
}

static bool any_running(const struct session *all, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (all[i].end == RUNNING)
			return true;
	return false;
}

static int report(struct session *all, uint32_t count)
{
	static const char *const name[] = { "running", "finished", "failed", "dropped", "stuck" };
	uint32_t tally[2][5] = { 0 };
	uint64_t tasks = 0, refused = 0;
	unsigned shown = 0;
	int result = EXIT_FINE;

	for (uint32_t i = 0; i < count; i++) {
		struct session *s = &all[i];
		bool good = s->end == FINISHED || (s->reader && s->end == DROPPED);

		finish(s, STUCK, "nothing came");
		tasks += s->ended_tasks;
		refused += s->refused;
		tally[s->reader][s->end]++;
		if (!good) {
			result = EXIT_FOUND;
			if (shown++ < 10)
				fprintf(stderr, "session %u (%s) %s after %u of %u tasks (%u sent): %s\n", i, s->reader ? "reader" : "writer", name[s->end],
					s->ended_tasks, flood.tasks, s->sent_tasks, s->why);
		}
	}
	printf("{\"tasks\": %" PRIu64 ", \"refused\": %" PRIu64, tasks, refused);
	for (int reader = 0; reader < 2; reader++)
		for (int end = FINISHED; end <= STUCK; end++)
			printf(", \"%s_%s\": %u", reader ? "readers" : "writers", name[end], tally[reader][end]);
	printf("}\n");
	return result;
}

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int main(int argc, char **argv)
{
	static struct session all[SESSIONS_MAX];
	uint32_t count;
	uint64_t bytes = 0;
	double quiet_since, end;

	if (argc < 5 || argc % 2 == 0)
		die(EXIT_USAGE, "usage: flood ADDRESS PORT IQN LUN [--writers N] [--readers N] [--tasks N] [--bytes N] [--hold S] [--limit S]");
	flood.to.sin_family = AF_INET;
	flood.to.sin_port = htons((uint16_t)number(argv[2], "PORT"));
	if (inet_pton(AF_INET, argv[1], &flood.to.sin_addr) != 1)
		die(EXIT_USAGE, "%s is not an IPv4 address", argv[1]);
	flood.iqn = argv[3];
	flood.lun = number(argv[4], "LUN");
	for (int i = 5; i < argc; i += 2) {
		uint64_t value = number(argv[i + 1], argv[i]);

		if (strcmp(argv[i], "--writers") == 0)
			flood.writers = (uint32_t)value;
		else if (strcmp(argv[i], "--readers") == 0)
			flood.readers = (uint32_t)value;
		else if (strcmp(argv[i], "--tasks") == 0)
			flood.tasks = (uint32_t)value;
		else if (strcmp(argv[i], "--bytes") == 0)
			flood.bytes = (uint32_t)value;
		else if (strcmp(argv[i], "--hold") == 0)
			flood.hold = (double)value;
		else if (strcmp(argv[i], "--limit") == 0)
			flood.limit = (double)value;
		else
			die(EXIT_USAGE, "unknown option %s", argv[i]);
	}
	count = flood.writers + flood.readers;
	if (count == 0 || count > SESSIONS_MAX || flood.tasks == 0 || flood.tasks > TASKS_MAX || flood.bytes < 2 * PIECE || flood.bytes > BYTES_MAX ||
	    flood.bytes % PIECE != 0)
		die(EXIT_USAGE, "sessions 1 to %d, tasks 1 to %d, bytes %d to %d in steps of %d", SESSIONS_MAX, TASKS_MAX, 2 * PIECE, BYTES_MAX, PIECE);
	raise_file_limit();
	for (uint32_t i = 0; i < count; i++) {
		all[i].reader = i >= flood.writers;
		session_begin(&all[i], i);
		take_attention(&all[i]);
	}
	printf("logged in %u\n", count);
	fflush(stdout);

	for (quiet_since = now_s(); now_s() - quiet_since < QUIET_MS / 1e3;)
		if (turn(all, count, true))
			quiet_since = now_s();
	for (uint32_t i = 0; i < count; i++)
		bytes += all[i].sent_bytes;
	printf("holding %" PRIu64 "\n", bytes);
	fflush(stdout);
	for (end = now_s() + flood.hold; now_s() < end;)
		turn(all, count, true);

	printf("finishing\n");
	fflush(stdout);
	for (end = now_s() + flood.limit; any_running(all, count) && now_s() < end;)
		turn(all, count, false);
	return report(all, count);
}
