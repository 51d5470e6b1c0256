/* Does a write that its host gave up on stay away when its daemon goes on?
 *
 *   stale hold  PORTAL IQN LUN[,LUN...] LOG [--depth N]
 *   stale renew PORTAL IQN LUN[,LUN...] LOG
 *   stale plant PORTAL IQN LUN[,LUN...] LOG
 *   stale check PORTAL IQN LUN[,LUN...] LOG
 *   stale image FILE[,FILE...] LOG
 *
 * `hold` is the old client: one session, N blocks of 4 KiB of each LUN, a write at most in flight to each. It goes to no other path, ends no command and never lets its
 * connection go. Lines on stdin, one of the log for each when it has been done, `M <word>`, and `M ready` when they are waited for:
 *   write   one write to each block
 *   load    writes to each block, one after the other
 *   still   no further write
 *   late    from now on no answer is expected; what is in flight has been given up on
 *   end     the report, and the end: {"blocks", "written", "good", "refused", "inside", "late_good", "late_refused", "ended"}. `inside` are writes without an answer
 *           when `late` came, those of a session that was lost included; `ended` says how it was lost, null if it was not.
 *
 * `renew` writes newer data to each block and waits for GOOD, by another portal. `check` compares what is read there with LOG, and `image` what is in files with the LUNs'
 * whole content, in their order, such as `rbd export` writes; an old write that came after the newer one is found as `undone`. `plant` writes to one block what it held
 * before, past LOG, so that it can be seen that this is found.
 *
 * EXIT_FOUND where a block is amiss. LOG is of the form that book.h describes. */
#include "book.h"
#include "common.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	BLOCK = 4096, /* bytes that carry one stamp */
	DEPTH_MAX = 64,
	URL_SIZE = 512,
	LINE_SIZE = 64,
	TURN_MS = 10,
	TIMEOUT_S = 20, /* of one command that is waited for */
};

#define RETRY_S 60.0 /* how long a login is retried, and a write that is to be answered with GOOD */
#define PAUSE_S 0.1
#define INITIATOR "iqn.2026-11.io.lus.qa:stale"

static struct {
	const char *portal, *iqn;
	uint32_t lun[BOOK_UNITS_MAX], luns;
	uint32_t depth;
	struct unit unit;
} disks = { .depth = 8 };

/* ---- a session to all LUNs ---- */

static uint64_t lba(uint32_t block)
{
	return (uint64_t)(block % book.unit_blocks) * (BLOCK / disks.unit.block_size);
}

static int lun_of(uint32_t block)
{
	return (int)book.unit[block / book.unit_blocks];
}

/* Whether a task that has ended was GOOD; `how` says what became of it. Frees it; NULL stands for a command without an answer. */
static bool was_good(struct scsi_task *task, char *how, size_t size)
{
	bool good = task != NULL && task->status == SCSI_STATUS_GOOD;

	snprintf(how, size, "no answer");
	if (task != NULL) {
		outcome(task, how, size);
		scsi_free_scsi_task(task);
	}
	return good;
}

/* Waits until a LUN can be used by this session: unit attentions, and a daemon that does not serve it yet. */
static void lun_ready(int lun)
{
	double deadline = now_s() + RETRY_S;

	for (;;) {
		char how[64];

		if (was_good(iscsi_testunitready_sync(disks.unit.iscsi, lun), how, sizeof(how)))
			return;
		if (now_s() >= deadline)
			die(EXIT_USAGE, "LUN %d of %s is not ready within %.0f s: %s", lun, disks.portal, RETRY_S, how);
		sleep_s(PAUSE_S);
	}
}

static void session_begin(int timeout_s)
{
	char url[URL_SIZE], reason[256];
	struct target target = { .url = url, .initiator = INITIATOR, .retry_s = RETRY_S, .timeout_s = timeout_s };

	snprintf(url, sizeof(url), "iscsi://%s/%s/%u", disks.portal, disks.iqn, disks.lun[0]);
	if (!unit_open(&target, &disks.unit, reason, sizeof(reason)))
		die(EXIT_USAGE, "no disk at %s within %.0f s: %s", url, RETRY_S, reason);
	if (BLOCK % disks.unit.block_size != 0 || disks.unit.blocks * disks.unit.block_size < (uint64_t)book.unit_blocks * BLOCK)
		die(EXIT_USAGE, "%s is too small for %u blocks of %d", url, book.unit_blocks, BLOCK);
	for (uint32_t u = 0; u < disks.luns; u++)
		lun_ready((int)disks.lun[u]);
}

static void log_open(const char *path, bool new)
{
	struct layout layout = { .unit_blocks = disks.depth, .block_size = BLOCK, .units = disks.luns, .unit = disks.lun };

	book_open(path, new ? &layout : NULL);
	for (uint32_t u = 0; disks.luns != 0 && u < book.units; u++)
		if (book.units != disks.luns || book.unit[u] != disks.lun[u])
			die(EXIT_USAGE, "%s is the log of other LUNs", path);
}

/* ---- hold ---- */

static struct {
	struct slot {
		uint64_t sequence; /* 0: nothing in flight */
		uint8_t data[BLOCK];
	} *slot; /* of each block */
	bool load, late, lost;
	char ended[128];
	uint64_t written, good, refused, inside, late_good, late_refused;
} hold;

static void hold_lost(const char *how)
{
	if (hold.lost)
		return;
	hold.lost = true;
	snprintf(hold.ended, sizeof(hold.ended), "%s", how);
}

static void written(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
	struct scsi_task *task = command_data;
	struct slot *slot = private_data;
	char how[64];

	(void)iscsi;
	if (status == (int)SCSI_STATUS_CANCELLED || status == (int)SCSI_STATUS_ERROR || status == (int)SCSI_STATUS_TIMEOUT) {
		hold_lost("the connection ended");
		return;
	}
	if (hold.late) {
		*(status == SCSI_STATUS_GOOD ? &hold.late_good : &hold.late_refused) += 1;
		/* Not for the log: by now its block has newer data. */
	} else if (status == SCSI_STATUS_GOOD) {
		book_record("A %" PRIu64, slot->sequence);
		hold.good++;
	} else {
		book_record("E %" PRIu64 " %s", slot->sequence, outcome(task, how, sizeof(how)));
		hold.refused++;
	}
	slot->sequence = 0;
	scsi_free_scsi_task(task);
}

static void write_idle(void)
{
	for (uint32_t block = 0; block < book.blocks && !hold.lost; block++) {
		struct slot *slot = &hold.slot[block];

		if (slot->sequence != 0)
			continue;
		slot->sequence = book.sequence + 1;
		stamp_make(slot->data, block, slot->sequence, 0);
		book_record("S %" PRIu64 " %u 1", slot->sequence, block);
		hold.written++;
		if (iscsi_write16_task(disks.unit.iscsi, lun_of(block), lba(block), slot->data, BLOCK, (int)disks.unit.block_size, 0, 0, 0, 0, 0, written,
				       slot) == NULL)
			hold_lost(iscsi_get_error(disks.unit.iscsi));
	}
}

static bool hold_told(const char *word)
{
	if (strcmp(word, "write") == 0) {
		write_idle();
	} else if (strcmp(word, "load") == 0) {
		hold.load = true;
	} else if (strcmp(word, "still") == 0) {
		hold.load = false;
	} else if (strcmp(word, "late") == 0) {
		hold.late = true;
		for (uint32_t block = 0; block < book.blocks; block++)
			hold.inside += hold.slot[block].sequence != 0;
	} else if (strcmp(word, "end") == 0) {
		return false;
	} else {
		die(EXIT_USAGE, "stdin: '%s' is not write, load, still, late or end", word);
	}
	book_record("M %s", word);
	return true;
}

/* What there is on stdin; false when that is the end. */
static bool hold_read(void)
{
	static char line[LINE_SIZE];
	static size_t size;
	ssize_t got = read(STDIN_FILENO, line + size, sizeof(line) - 1 - size);
	char *end;
	bool more = got > 0;

	size += got > 0 ? (size_t)got : 0;
	line[size] = '\0';
	while (more && (end = strchr(line, '\n')) != NULL) {
		*end = '\0';
		more = hold_told(line);
		size -= (size_t)(end + 1 - line);
		memmove(line, end + 1, size + 1);
	}
	return more;
}

/* One turn of the session. libiscsi, told not to reconnect, does not say that a connection has ended. */
static void hold_turn(short revents)
{
	if (revents & (POLLIN | POLLHUP | POLLERR)) {
		char byte;
		ssize_t got = recv(iscsi_get_fd(disks.unit.iscsi), &byte, 1, MSG_PEEK | MSG_DONTWAIT);

		if (got == 0)
			hold_lost("the target closed the connection");
		else if (got < 0 && (revents & POLLERR))
			hold_lost("the connection was reset");
	}
	if (!hold.lost && iscsi_service(disks.unit.iscsi, revents) != 0)
		hold_lost(iscsi_get_error(disks.unit.iscsi));
	if (!hold.lost && !iscsi_is_logged_in(disks.unit.iscsi))
		hold_lost("logged out, as the target asked");
}

static int command_hold(void)
{
	bool more = true;

	/* No command is ended by time. */
	session_begin(0);
	hold.slot = calloc(book.blocks, sizeof(*hold.slot));
	if (hold.slot == NULL)
		die(EXIT_USAGE, "out of memory");
	book_record("M ready");
	while (more) {
		struct pollfd fds[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = -1 } };

		if (hold.load)
			write_idle();
		if (!hold.lost) {
			fds[1].fd = iscsi_get_fd(disks.unit.iscsi);
			fds[1].events = (short)iscsi_which_events(disks.unit.iscsi);
		}
		if (poll(fds, 2, TURN_MS) < 0)
			die(EXIT_USAGE, "poll");
		if (!hold.lost)
			hold_turn(fds[1].revents);
		if (fds[0].revents != 0)
			more = hold_read();
	}
	printf("{\"blocks\": %u, \"written\": %" PRIu64 ", \"good\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"inside\": %" PRIu64 ", \"late_good\": %" PRIu64
	       ", \"late_refused\": %" PRIu64 ", \"ended\": ",
	       book.blocks, hold.written, hold.good, hold.refused, hold.inside, hold.late_good, hold.late_refused);
	if (hold.lost)
		printf("\"%s\"}\n", hold.ended);
	else
		printf("null}\n");
	return EXIT_FINE;
}

/* ---- renew, plant ---- */

/* Writes until the answer is GOOD. */
static void write_block(uint32_t block, uint8_t *content)
{
	double deadline = now_s() + RETRY_S;

	for (;;) {
		struct scsi_task *task =
			iscsi_write16_sync(disks.unit.iscsi, lun_of(block), lba(block), content, BLOCK, (int)disks.unit.block_size, 0, 0, 0, 0, 0);
		char how[64];
		bool answered = task != NULL;

		if (was_good(task, how, sizeof(how)))
			return;
		if (!answered || now_s() >= deadline)
			die(EXIT_USAGE, "cannot write block %u of LUN %d by %s: %s", block % book.unit_blocks, lun_of(block), disks.portal, how);
		sleep_s(PAUSE_S);
	}
}

static int command_renew(void)
{
	uint8_t content[BLOCK];

	session_begin(TIMEOUT_S);
	for (uint32_t block = 0; block < book.blocks; block++) {
		uint64_t sequence = book.sequence + 1;

		stamp_make(content, block, sequence, 1);
		book_record("S %" PRIu64 " %u 1", sequence, block);
		write_block(block, content);
		book_record("A %" PRIu64, sequence);
	}
	unit_close(&disks.unit);
	return EXIT_FINE;
}

static int command_plant(void)
{
	uint8_t content[BOOK_BLOCK_MAX];
	uint32_t block = book_plant("undone", 1, content);

	session_begin(TIMEOUT_S);
	write_block(block, content);
	unit_close(&disks.unit);
	return EXIT_FINE;
}

/* ---- check, image ---- */

static int report_check(void)
{
	printf("{\"blocks\": %u", book.blocks);
	print_findings();
	printf("}\n");
	return anything_amiss() ? EXIT_FOUND : EXIT_FINE;
}

static int command_check(void)
{
	uint64_t sequence;

	session_begin(TIMEOUT_S);
	for (uint32_t block = 0; block < book.blocks; block++) {
		struct scsi_task *task = iscsi_read16_sync(disks.unit.iscsi, lun_of(block), lba(block), BLOCK, (int)disks.unit.block_size, 0, 0, 0, 0, 0);

		if (task == NULL || task->status != SCSI_STATUS_GOOD || task->datain.size != BLOCK)
			die(EXIT_USAGE, "cannot read block %u of LUN %d by %s", block % book.unit_blocks, lun_of(block), disks.portal);
		book_judge(block, task->datain.data, &sequence);
		scsi_free_scsi_task(task);
	}
	unit_close(&disks.unit);
	return report_check();
}

static int check_images(char *files)
{
	uint32_t block = 0;

	for (char *name = strtok(files, ","); name != NULL; name = strtok(NULL, ",")) {
		int fd = open(name, O_RDONLY);
		uint8_t content[BLOCK];
		uint64_t sequence;

		for (uint32_t i = 0; i < book.unit_blocks; i++, block++) {
			if (block == book.blocks || fd < 0 || pread(fd, content, BLOCK, (off_t)i * BLOCK) != BLOCK)
				die(EXIT_USAGE, "cannot read block %u of %s", i, name);
			book_judge(block, content, &sequence);
		}
		close(fd);
	}
	if (block != book.blocks)
		die(EXIT_USAGE, "the log has %u LUNs", book.units);
	return report_check();
}

/* ---- the command line ---- */

static void usage(void)
{
	die(EXIT_USAGE, "usage: stale hold|renew|plant|check PORTAL IQN LUN[,LUN...] LOG [--depth N]\n"
			"       stale image FILE[,FILE...] LOG");
}

static void parse(int argc, char **argv)
{
	if (argc != 6 && (argc != 8 || strcmp(argv[6], "--depth") != 0))
		usage();
	disks.portal = argv[2];
	disks.iqn = argv[3];
	for (char *word = strtok(argv[4], ","); word != NULL; word = strtok(NULL, ",")) {
		if (disks.luns == BOOK_UNITS_MAX)
			die(EXIT_USAGE, "more than %d LUNs", BOOK_UNITS_MAX);
		disks.lun[disks.luns++] = (uint32_t)number(word, "LUN");
	}
	if (argc == 8)
		disks.depth = (uint32_t)number(argv[7], "--depth");
	if (disks.luns == 0 || disks.depth == 0 || disks.depth > DEPTH_MAX)
		die(EXIT_USAGE, "there is a LUN at least, and --depth is 1 to %d", DEPTH_MAX);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} commands[] = { { "hold", command_hold }, { "renew", command_renew }, { "plant", command_plant }, { "check", command_check } };

	if (argc == 4 && strcmp(argv[1], "image") == 0) {
		log_open(argv[3], false);
		return check_images(argv[2]);
	}
	parse(argc, argv);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		log_open(argv[5], i == 0);
		return commands[i].run();
	}
	usage();
	return EXIT_USAGE;
}
