/* Does an acknowledged write survive?
 *
 *   durability write URL LOG [--seconds S] [--depth N] [--blocks N] [--seed N] [--timeout S] [--need WHAT]
 *   durability check URL LOG [--timeout S] [--need WHAT]
 *   durability plant URL LOG lost|undone|late|torn|misplaced [--seed N] [--need WHAT]
 *   durability mend  URL LOG --block N [--need WHAT]
 *
 * `write` keeps N writes (and now and then a read, or a SYNCHRONIZE CACHE) in flight at random blocks of 4 KiB. Each block carries a stamp (magic, run, block,
 * sequence, CRC). What it does is appended to LOG, outside the gateway: before a write is sent, and after it is acknowledged. It ends after S seconds or on
 * SIGTERM, once everything in flight is answered (0), or when the connection goes (EXIT_LOST), as it does when the gateway is killed.
 *
 * `check` replays LOG into the set of sequences that each block may hold, reads every block that was ever written, and compares. What it finds is appended too:
 * a write whose outcome was open is decided by what was read, and may not change afterwards. EXIT_FOUND when anything is amiss:
 * lost, undone, late, torn or misplaced, as book.h says.
 *
 * `plant` makes one block wrong in the named way, past LOG, so that it can be seen that `check` would see it; `mend` rewrites it as it should be.
 *
 * WHAT is `acknowledged` (default: GOOD status means durable, as with WCE=0), or `flushed` (durable is what a later successful SYNCHRONIZE CACHE covers).
 *
 * LOG is of the form that book.h describes. */
#include "book.h"
#include "common.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	BLOCK = 4096,          /* bytes that carry one stamp */
	DEPTH_MAX = 128,
	SCAN_COUNT = 64,       /* blocks that `check` reads at once */
	SCAN_DEPTH = 8,
	FLUSH_EVERY = 200,     /* writes between two SYNCHRONIZE CACHE, on average */
	READ_PERCENT = 10,
	TIMEOUT_S = 30,        /* of one command, where --timeout does not say otherwise */
	TIMEOUT_MAX_S = 3600,
};

#define RETRY_S 60.0 /* how long a login is retried */
#define INITIATOR "iqn.2026-11.io.lus.qa:durability"

static struct unit unit;
static int timeout_s = TIMEOUT_S;
static volatile sig_atomic_t told_to_end;

static void on_sigterm(int signal_number)
{
	(void)signal_number;
	told_to_end = 1;
}

/* ---- I/O ---- */

static uint64_t unit_lba(uint32_t block)
{
	return (uint64_t)block * (BLOCK / unit.block_size);
}

static void unit_ready(const char *url)
{
	struct target target = { .url = url, .initiator = INITIATOR, .retry_s = RETRY_S, .timeout_s = timeout_s };
	char reason[256];

	if (!unit_open(&target, &unit, reason, sizeof(reason)))
		die(EXIT_USAGE, "no disk at %s within %.0f s: %s", url, RETRY_S, reason);
	if (BLOCK % unit.block_size != 0 || unit.blocks * unit.block_size < (uint64_t)book.blocks * BLOCK)
		die(EXIT_USAGE, "the disk (%" PRIu64 " blocks of %u) is too small for %u blocks of %d", unit.blocks, unit.block_size, book.blocks, BLOCK);
}

struct slot {
	enum { IDLE, WRITING, READING, FLUSHING } doing;
	uint64_t id; /* sequence, or flush */
	uint32_t block, count;
	double since; /* when it was submitted */
	uint8_t *data;
};

static struct {
	struct slot slot[DEPTH_MAX];
	uint32_t in_flight;
	double longest_s; /* the longest that a command was waited for */
	uint64_t writes, reads, flushes, acknowledged, flushed, errors, refused;
	bool lost;
} work;

static void read_back(const struct slot *s, const struct scsi_task *task)
{
	if (task->datain.size != (int)(s->count * BLOCK))
		die(EXIT_FOUND, "a read of %u blocks at %u returned %d bytes", s->count, s->block, task->datain.size);
	for (uint32_t i = 0; i < s->count; i++) {
		uint64_t sequence;

		book_judge(s->block + i, task->datain.data + (size_t)i * BLOCK, &sequence);
	}
}

static void done(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
	struct scsi_task *task = command_data;
	struct slot *s = private_data;
	char buffer[64];

	(void)iscsi;
	if (now_s() - s->since > work.longest_s)
		work.longest_s = now_s() - s->since;
	if (status == SCSI_STATUS_GOOD && s->doing == WRITING) {
		book_record("A %" PRIu64, s->id);
		work.acknowledged++;
	} else if (status == SCSI_STATUS_GOOD && s->doing == FLUSHING) {
		book_record("G %" PRIu64, s->id);
		work.flushed++;
	} else if (status == SCSI_STATUS_GOOD) {
		read_back(s, task);
	} else if (status == SCSI_STATUS_CANCELLED || status == (int)SCSI_STATUS_ERROR || status == (int)SCSI_STATUS_TIMEOUT) {
		work.lost = true;
	} else {
		/* BUSY and TASK SET FULL are lawful answers of a gateway that bounds its memory; the write counts as open all the same. */
		if (status == SCSI_STATUS_BUSY || status == SCSI_STATUS_TASK_SET_FULL)
			work.refused++;
		else
			work.errors++;
		if (s->doing == WRITING)
			book_record("E %" PRIu64 " %s", s->id, outcome(task, buffer, sizeof(buffer)));
		fprintf(stderr, "%s at block %u: %s\n", s->doing == WRITING ? "write" : s->doing == READING ? "read" : "flush", s->block,
			outcome(task, buffer, sizeof(buffer)));
	}
	if (!work.lost) {
		book_busy(s->block, s->count, false);
		work.in_flight--;
	}
	s->doing = IDLE;
	if (task != NULL)
		scsi_free_scsi_task(task);
}

/* A range of `count` blocks that is idle. */
static bool pick(struct random *r, uint32_t count, uint32_t *block)
{
	for (int try = 0; try < 64; try++) {
		*block = (uint32_t)random_below(r, book.blocks - count + 1);
		if (book_idle(*block, count))
			return true;
	}
	return false;
}

static void submit(struct slot *s, struct random *r)
{
	uint64_t dice = random_below(r, 100 * FLUSH_EVERY);
	uint64_t shape = random_below(r, 100);
	struct scsi_task *task;

	s->since = now_s();
	s->count = shape < 80 ? 1 : shape < 98 ? 1 + (uint32_t)random_below(r, 16) : 65 + (uint32_t)random_below(r, BOOK_COUNT_MAX - 64);
	if (dice < 100) {
		s->doing = FLUSHING;
		s->id = book.flushes + 1;
		s->count = 0;
		book_record("F %" PRIu64, s->id);
		task = iscsi_synchronizecache10_task(unit.iscsi, unit.lun, 0, 0, 0, 0, done, s);
		work.flushes++;
	} else if (!pick(r, s->count, &s->block)) {
		return;
	} else if (dice % 100 < READ_PERCENT) {
		s->doing = READING;
		book_busy(s->block, s->count, true);
		task = iscsi_read16_task(unit.iscsi, unit.lun, unit_lba(s->block), s->count * BLOCK, (int)unit.block_size, 0, 0, 0, 0, 0, done, s);
		work.reads++;
	} else {
		bool fua = random_below(r, 8) == 0;

		s->doing = WRITING;
		s->id = book.sequence + 1;
		for (uint32_t i = 0; i < s->count; i++)
			stamp_make(s->data + (size_t)i * BLOCK, s->block + i, s->id, (uint32_t)(s - work.slot));
		book_busy(s->block, s->count, true);
		book_record("S %" PRIu64 " %u %u", s->id, s->block, s->count);
		if (s->id % 2 == 0)
			task = iscsi_write10_task(unit.iscsi, unit.lun, (uint32_t)unit_lba(s->block), s->data, s->count * BLOCK, (int)unit.block_size, 0, 0, fua, 0,
						  0, done, s);
		else
			task = iscsi_write16_task(unit.iscsi, unit.lun, unit_lba(s->block), s->data, s->count * BLOCK, (int)unit.block_size, 0, 0, fua, 0, 0,
						  done, s);
		work.writes++;
	}
	if (task == NULL) {
		/* Nothing was sent; the record of the submission stays and is harmless: an open write that never lands. */
		work.lost = true;
		return;
	}
	work.in_flight++;
}

static int command_write(double seconds, uint32_t depth, uint64_t seed)
{
	double end = now_s() + seconds;
	uint32_t in_flight;
	struct random r;

	random_seed(&r, seed ^ book.sequence);
	signal(SIGTERM, on_sigterm);
	for (uint32_t i = 0; i < depth; i++) {
		work.slot[i].data = malloc((size_t)BOOK_COUNT_MAX * BLOCK);
		if (work.slot[i].data == NULL)
			die(EXIT_USAGE, "out of memory");
	}
	printf("writing\n");
	fflush(stdout);
	while (!work.lost) {
		bool more = now_s() < end && !told_to_end;

		for (uint32_t i = 0; more && i < depth && !work.lost; i++)
			if (work.slot[i].doing == IDLE)
				submit(&work.slot[i], &r);
		if (!more && work.in_flight == 0)
			break;
		if (!work.lost && !session_turn(unit.iscsi, 100))
			work.lost = true;
	}
	/* Callbacks stop counting once the session is lost: what is left is what was in flight at that moment. */
	in_flight = work.in_flight;
	if (work.lost)
		book_record("X");
	printf("{\"writes\": %" PRIu64 ", \"acknowledged\": %" PRIu64 ", \"flushes\": %" PRIu64 ", \"flushed\": %" PRIu64 ", \"reads\": %" PRIu64
	       ", \"errors\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"in_flight\": %u, \"longest_s\": %.3f, \"connection_lost\": %s",
	       work.writes, work.acknowledged, work.flushes, work.flushed, work.reads, work.errors, work.refused, in_flight, work.longest_s,
	       work.lost ? "true" : "false");
	print_findings();
	printf("}\n");
	if (!work.lost)
		unit_close(&unit);
	if (anything_amiss() || work.errors != 0)
		return EXIT_FOUND;
	return work.lost ? EXIT_LOST : EXIT_FINE;
}

/* ---- check, plant, mend ---- */

struct scan {
	bool failed;
	uint32_t in_flight;
	uint64_t seen, observed;
};

struct scan_read {
	struct scan *scan;
	uint32_t block, count;
};

static void scanned(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
	struct scsi_task *task = command_data;
	struct scan_read *read = private_data;
	char buffer[64];

	(void)iscsi;
	read->scan->in_flight--;
	if (status != SCSI_STATUS_GOOD || task->datain.size != (int)(read->count * BLOCK)) {
		if (!read->scan->failed)
			fprintf(stderr, "cannot read block %u: %s\n", read->block, task == NULL ? "cancelled" : outcome(task, buffer, sizeof(buffer)));
		read->scan->failed = true;
	} else {
		for (uint32_t i = 0; i < read->count; i++) {
			uint32_t block = read->block + i;

			if (!book.state[block].written)
				continue;
			read->scan->seen++;
			if (book_decide(block, task->datain.data + (size_t)i * BLOCK))
				read->scan->observed++;
		}
	}
	free(read);
	if (task != NULL)
		scsi_free_scsi_task(task);
}

static int command_check(void)
{
	struct scan scan = { 0 };
	uint32_t block = 0;

	while (!scan.failed && (block < book.blocks || scan.in_flight > 0)) {
		while (block < book.blocks && scan.in_flight < SCAN_DEPTH) {
			struct scan_read *read = malloc(sizeof(*read));
			uint32_t count = book.blocks - block < SCAN_COUNT ? book.blocks - block : SCAN_COUNT;

			if (read == NULL)
				die(EXIT_USAGE, "out of memory");
			*read = (struct scan_read){ .scan = &scan, .block = block, .count = count };
			if (iscsi_read16_task(unit.iscsi, unit.lun, unit_lba(block), count * BLOCK, (int)unit.block_size, 0, 0, 0, 0, 0, scanned, read) == NULL)
				die(EXIT_USAGE, "cannot send a read: %s", iscsi_get_error(unit.iscsi));
			scan.in_flight++;
			block += count;
		}
		if (!session_turn(unit.iscsi, 100))
			scan.failed = true;
	}
	printf("{\"submitted\": %" PRIu64 ", \"acknowledged\": %" PRIu64 ", \"flushes\": %" PRIu64 ", \"checked_blocks\": %" PRIu64 ", \"decided_blocks\": %" PRIu64,
	       book.sequence, book.acknowledged, book.flushes, scan.seen, scan.observed);
	print_findings();
	printf("}\n");
	if (scan.failed)
		die(EXIT_USAGE, "the check could not read the disk: %s", iscsi_get_error(unit.iscsi));
	unit_close(&unit);
	return anything_amiss() ? EXIT_FOUND : EXIT_FINE;
}

static void write_block(uint32_t block, uint8_t *content)
{
	struct scsi_task *task =
		iscsi_write16_sync(unit.iscsi, unit.lun, unit_lba(block), content, BLOCK, (int)unit.block_size, 0, 0, 0, 0, 0);

	if (task == NULL || task->status != SCSI_STATUS_GOOD)
		die(EXIT_USAGE, "cannot write block %u: %s", block, iscsi_get_error(unit.iscsi));
	scsi_free_scsi_task(task);
}

static int command_plant(const char *kind, uint64_t seed)
{
	uint8_t content[BLOCK];
	uint32_t block = book_plant(kind, seed, content);

	write_block(block, content);
	printf("%u\n", block);
	unit_close(&unit);
	return EXIT_FINE;
}

static int command_mend(uint32_t block)
{
	uint8_t content[BLOCK];

	book_mend(block, content);
	write_block(block, content);
	unit_close(&unit);
	return EXIT_FINE;
}

static void usage(void)
{
	die(EXIT_USAGE, "usage: durability write|check|plant|mend URL LOG [KIND] [--seconds S] [--depth N] [--blocks N] [--block N] [--seed N]\n"
			"                  [--need acknowledged|flushed]\n"
			"       KIND, for plant: lost, undone, late, torn, misplaced");
}

int main(int argc, char **argv)
{
	const char *kind = NULL, *command;
	uint64_t timeout = TIMEOUT_S, seconds = 3600, depth = 64, blocks = 16384, block = UINT64_MAX, seed = 1;
	/* A stamp does not name the LUN: a snapshot's clone is another. */
	const uint32_t no_name = 0;
	struct layout layout = { .block_size = BLOCK, .units = 1, .unit = &no_name };
	int i = 4;

	if (argc < 4)
		usage();
	command = argv[1];
	if (strcmp(command, "plant") == 0) {
		if (argc < 5)
			usage();
		kind = argv[i++];
	}
	for (; i < argc; i += 2) {
		const char *value = argv[i + 1];

		if (value == NULL)
			usage();
		if (strcmp(argv[i], "--seconds") == 0)
			seconds = number(value, argv[i]);
		else if (strcmp(argv[i], "--depth") == 0)
			depth = number(value, argv[i]);
		else if (strcmp(argv[i], "--blocks") == 0)
			blocks = number(value, argv[i]);
		else if (strcmp(argv[i], "--block") == 0)
			block = number(value, argv[i]);
		else if (strcmp(argv[i], "--seed") == 0)
			seed = number(value, argv[i]);
		else if (strcmp(argv[i], "--timeout") == 0)
			timeout = number(value, argv[i]);
		else if (strcmp(argv[i], "--need") == 0 && (strcmp(value, "flushed") == 0 || strcmp(value, "acknowledged") == 0))
			book.need_flush = strcmp(value, "flushed") == 0;
		else
			usage();
	}
	if (depth == 0 || depth > DEPTH_MAX || blocks < 2 * BOOK_COUNT_MAX || blocks > UINT32_MAX || timeout == 0 || timeout > TIMEOUT_MAX_S)
		die(EXIT_USAGE, "--depth is 1 to %d, --blocks at least %d, --timeout 1 to %d", DEPTH_MAX, 2 * BOOK_COUNT_MAX, TIMEOUT_MAX_S);
	timeout_s = (int)timeout;
	layout.unit_blocks = (uint32_t)blocks;
	book_open(argv[3], strcmp(command, "write") == 0 ? &layout : NULL);
	if (book.units != 1 || book.block_size != BLOCK)
		die(EXIT_USAGE, "%s: the log of another client", argv[3]);
	unit_ready(argv[2]);
	if (strcmp(command, "write") == 0)
		return command_write((double)seconds, (uint32_t)depth, seed);
	if (strcmp(command, "check") == 0)
		return command_check();
	if (strcmp(command, "plant") == 0)
		return command_plant(kind, seed);
	if (strcmp(command, "mend") == 0)
		return command_mend(block > UINT32_MAX ? UINT32_MAX : (uint32_t)block);
	usage();
	return EXIT_USAGE;
}
