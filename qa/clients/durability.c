/* Does an acknowledged write survive?
 *
 *   durability write URL LOG [--seconds S] [--depth N] [--blocks N] [--seed N] [--timeout S] [--need WHAT]
 *   durability check URL LOG [--timeout S] [--need WHAT]
 *   durability plant URL LOG lost|undone|torn|late [--seed N] [--need WHAT]
 *   durability mend  URL LOG --block N [--need WHAT]
 *
 * `write` keeps N writes (and now and then a read, or a SYNCHRONIZE CACHE) in flight at random blocks of 4 KiB. Each block carries a stamp (magic, run, block,
 * sequence, CRC). What it does is appended to LOG, outside the gateway: before a write is sent, and after it is acknowledged. It ends after S seconds or on
 * SIGTERM, once everything in flight is answered (0), or when the connection goes (EXIT_LOST), as it does when the gateway is killed.
 *
 * `check` replays LOG into the set of sequences that each block may hold, reads every block that was ever written, and compares. What it finds is appended too:
 * a write whose outcome was open is decided by what was read, and may not change afterwards. EXIT_FOUND when anything is amiss:
 *
 *   lost       an acknowledged block holds no stamp of this run
 *   undone     it holds an older sequence than the one that was acknowledged (or read)
 *   late       it holds a newer sequence which an earlier check had found not to have happened: a write that landed after its daemon was gone
 *   torn       its stamp does not match its content
 *   misplaced  it holds the stamp of another block
 *
 * `plant` makes one block wrong in the named way, past LOG, so that it can be seen that `check` would see it; `mend` rewrites it as it should be.
 *
 * WHAT is `acknowledged` (default: GOOD status means durable, as with WCE=0), or `flushed` (durable is what a later successful SYNCHRONIZE CACHE covers).
 *
 * LOG, one record a line:
 *   R <run> <blocks>    first line     S <seq> <block> <count>   submitted         A <seq>  acknowledged       E <seq> <outcome>   ended otherwise: open
 *   F <id>  flush submitted            G <id>  flush acknowledged                  O <block> <seq>   observed   X  connection lost */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	BLOCK = 4096,          /* bytes that carry one stamp */
	COUNT_MAX = 96,        /* blocks of the longest write: 384 KiB, past FirstBurstLength, so that R2Ts are needed */
	DEPTH_MAX = 128,
	SCAN_COUNT = 64,       /* blocks that `check` reads at once */
	SCAN_DEPTH = 8,
	FLUSH_EVERY = 200,     /* writes between two SYNCHRONIZE CACHE, on average */
	READ_PERCENT = 10,
	PLANT_TRIES = 1000000,
	TIMEOUT_S = 30,        /* of one command, where --timeout does not say otherwise */
	TIMEOUT_MAX_S = 3600,
	SHOWN_MAX = 20,        /* findings that are printed in full */
};

#define MAGIC 0x4c55535354414d50ull /* "LUSSTAMP" */
#define RETRY_S 60.0                /* how long a login is retried */
#define INITIATOR "iqn.2026-11.io.lus.qa:durability"

struct stamp {
	uint64_t magic, run, block, sequence;
	uint32_t crc; /* of the whole block with this field zero */
};

/* A write of which a block may still hold the outcome. */
struct open_write {
	uint64_t sequence;
	uint64_t acknowledged_at; /* log position + 1; 0: not acknowledged */
	struct open_write *next;  /* newer */
};

/* What a block must hold: `floor` or any of `open`, oldest first. A floor of 0 says that nothing was ever certain: anything may be there. */
struct block_state {
	uint64_t floor;
	struct open_write *open;
	bool written;
	bool busy; /* a command of this process is in flight */
};

struct submission {
	uint32_t block;
	uint16_t count;
};

static struct {
	int fd;
	uint64_t run;
	uint32_t blocks;
	struct block_state *state;
	struct submission *submitted; /* by sequence; [0] unused */
	uint64_t sequence, capacity;  /* the last one in use */
	uint64_t position;            /* records so far */
	uint64_t *flush_at;           /* log position at which flush i was submitted */
	uint64_t flushes, flush_capacity;
	bool need_flush;
	uint64_t acknowledged;
} book;

static struct unit unit;
static int timeout_s = TIMEOUT_S;
static volatile sig_atomic_t told_to_end;

static void on_sigterm(int signal_number)
{
	(void)signal_number;
	told_to_end = 1;
}

/* ---- the book: one model, fed by the log's records, whether they are replayed or just being made ---- */

static void open_add(uint32_t block, uint64_t sequence)
{
	struct open_write *w = calloc(1, sizeof(*w)), **tail = &book.state[block].open;

	if (w == NULL)
		die(EXIT_USAGE, "out of memory");
	w->sequence = sequence;
	while (*tail != NULL)
		tail = &(*tail)->next;
	*tail = w;
}

/* `sequence` is certain: what is older can no longer be there. */
static void settle(uint32_t block, uint64_t sequence)
{
	struct block_state *s = &book.state[block];

	while (s->open != NULL && s->open->sequence <= sequence) {
		struct open_write *w = s->open;

		s->open = w->next;
		free(w);
	}
	s->floor = sequence;
}

static void book_submitted(uint64_t sequence, uint32_t block, uint32_t count)
{
	if (sequence != book.sequence + 1 || count == 0 || count > COUNT_MAX || block + count > book.blocks)
		die(EXIT_USAGE, "log: submission %" PRIu64 " of %u blocks at %u makes no sense", sequence, count, block);
	if (sequence >= book.capacity) {
		book.capacity = book.capacity == 0 ? 1 << 16 : book.capacity * 2;
		book.submitted = realloc(book.submitted, book.capacity * sizeof(*book.submitted));
		if (book.submitted == NULL)
			die(EXIT_USAGE, "out of memory");
	}
	book.sequence = sequence;
	book.submitted[sequence] = (struct submission){ .block = block, .count = (uint16_t)count };
	for (uint32_t b = block; b < block + count; b++) {
		book.state[b].written = true;
		open_add(b, sequence);
	}
}

static const struct submission *submission(uint64_t sequence)
{
	if (sequence == 0 || sequence > book.sequence)
		die(EXIT_USAGE, "log: sequence %" PRIu64 " was never submitted", sequence);
	return &book.submitted[sequence];
}

static void book_acknowledged(uint64_t sequence)
{
	const struct submission *s = submission(sequence);

	book.acknowledged++;
	for (uint32_t b = s->block; b < s->block + s->count; b++) {
		if (!book.need_flush) {
			settle(b, sequence);
			continue;
		}
		for (struct open_write *w = book.state[b].open; w != NULL; w = w->next)
			if (w->sequence == sequence)
				w->acknowledged_at = book.position + 1;
	}
}

static void book_flush_submitted(uint64_t id)
{
	if (id != book.flushes + 1)
		die(EXIT_USAGE, "log: flush %" PRIu64 " is out of order", id);
	if (id >= book.flush_capacity) {
		book.flush_capacity = book.flush_capacity == 0 ? 1024 : book.flush_capacity * 2;
		book.flush_at = realloc(book.flush_at, book.flush_capacity * sizeof(*book.flush_at));
		if (book.flush_at == NULL)
			die(EXIT_USAGE, "out of memory");
	}
	book.flushes = id;
	book.flush_at[id] = book.position;
}

static void book_flush_acknowledged(uint64_t id)
{
	if (id == 0 || id > book.flushes)
		die(EXIT_USAGE, "log: flush %" PRIu64 " was never submitted", id);
	if (!book.need_flush)
		return;
	for (uint32_t b = 0; b < book.blocks; b++) {
		uint64_t newest = 0;

		for (struct open_write *w = book.state[b].open; w != NULL; w = w->next)
			if (w->acknowledged_at != 0 && w->acknowledged_at <= book.flush_at[id])
				newest = w->sequence;
		if (newest != 0)
			settle(b, newest);
	}
}

/* What was read is certain, and so is that the other open writes did not happen. */
static void book_observed(uint32_t block, uint64_t sequence)
{
	if (block >= book.blocks)
		die(EXIT_USAGE, "log: block %u is out of range", block);
	settle(block, UINT64_MAX);
	book.state[block].floor = sequence;
}

static bool book_apply(const char *line)
{
	uint64_t a, b;
	uint32_t c;

	switch (line[0]) {
	case 'S':
		if (sscanf(line, "S %" SCNu64 " %" SCNu64 " %" SCNu32, &a, &b, &c) != 3)
			return false;
		book_submitted(a, (uint32_t)b, c);
		return true;
	case 'A':
		if (sscanf(line, "A %" SCNu64, &a) != 1)
			return false;
		book_acknowledged(a);
		return true;
	case 'F':
		if (sscanf(line, "F %" SCNu64, &a) != 1)
			return false;
		book_flush_submitted(a);
		return true;
	case 'G':
		if (sscanf(line, "G %" SCNu64, &a) != 1)
			return false;
		book_flush_acknowledged(a);
		return true;
	case 'O':
		if (sscanf(line, "O %" SCNu64 " %" SCNu64, &a, &b) != 2)
			return false;
		book_observed((uint32_t)a, b);
		return true;
	case 'E':
	case 'X':
		return true;
	default:
		return false;
	}
}

/* Appends a record, before what it announces is done, and applies it. */
static void record(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void record(const char *format, ...)
{
	char line[128];
	va_list args;
	int size;

	va_start(args, format);
	size = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	line[size] = '\n';
	if (write(book.fd, line, (size_t)size + 1) != size + 1)
		die(EXIT_USAGE, "cannot append to the log: %s", strerror(errno));
	line[size] = '\0';
	if (!book_apply(line))
		die(EXIT_USAGE, "bad record '%s'", line);
	book.position++;
}

/* Opens the log and replays it; a new one gets a run of `blocks` blocks (0: a log must be there). */
static void book_open(const char *path, uint32_t blocks)
{
	FILE *in = fopen(path, "r");
	char line[128];

	if (in == NULL && (errno != ENOENT || blocks == 0))
		die(EXIT_USAGE, "%s: %s", path, strerror(errno));
	book.fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
	if (book.fd < 0)
		die(EXIT_USAGE, "%s: %s", path, strerror(errno));
	if (in == NULL) {
		int random_fd = open("/dev/urandom", O_RDONLY);

		if (random_fd < 0 || read(random_fd, &book.run, sizeof(book.run)) != sizeof(book.run))
			die(EXIT_USAGE, "/dev/urandom: %s", strerror(errno));
		close(random_fd);
		book.blocks = blocks;
		dprintf(book.fd, "R %016" PRIx64 " %u\n", book.run, blocks);
	} else if (fgets(line, sizeof(line), in) == NULL || sscanf(line, "R %" SCNx64 " %" SCNu32, &book.run, &book.blocks) != 2) {
		die(EXIT_USAGE, "%s: not a durability log", path);
	}
	book.state = calloc(book.blocks, sizeof(*book.state));
	if (book.state == NULL)
		die(EXIT_USAGE, "out of memory");
	if (in == NULL)
		return;
	while (fgets(line, sizeof(line), in) != NULL) {
		if (!book_apply(line))
			die(EXIT_USAGE, "%s: bad record '%s'", path, line);
		book.position++;
	}
	fclose(in);
}

/* ---- stamps ---- */

static void stamp_make(uint8_t *at, uint32_t block, uint64_t sequence)
{
	struct stamp stamp = { .magic = MAGIC, .run = book.run, .block = block, .sequence = sequence };
	struct random filler;

	random_seed(&filler, book.run ^ sequence << 24 ^ block);
	for (size_t i = 0; i < BLOCK; i += sizeof(uint64_t)) {
		uint64_t word = random_next(&filler);

		memcpy(at + i, &word, sizeof(word));
	}
	memcpy(at, &stamp, sizeof(stamp));
	stamp.crc = crc32c(0, at, BLOCK);
	memcpy(at, &stamp, sizeof(stamp));
}

enum verdict { RIGHT, LOST, UNDONE, LATE, TORN, MISPLACED, VERDICTS };
static const char *const verdict_name[VERDICTS] = { "right", "lost", "undone", "late", "torn", "misplaced" };

/* Judges what block `block` holds; `*sequence` is what it carries, 0 where it carries no stamp of this run. */
static enum verdict judge(uint32_t block, const uint8_t *content, uint64_t *sequence)
{
	const struct block_state *s = &book.state[block];
	uint8_t copy[BLOCK];
	struct stamp stamp;
	uint32_t crc;

	*sequence = 0;
	memcpy(&stamp, content, sizeof(stamp));
	if (stamp.magic != MAGIC || stamp.run != book.run)
		return s->floor == 0 ? RIGHT : LOST;
	crc = stamp.crc;
	stamp.crc = 0;
	memcpy(copy, content, BLOCK);
	memcpy(copy, &stamp, sizeof(stamp));
	if (crc32c(0, copy, BLOCK) != crc)
		return TORN;
	if (stamp.block != block)
		return MISPLACED;
	*sequence = stamp.sequence;
	if (stamp.sequence == s->floor)
		return RIGHT;
	for (const struct open_write *w = s->open; w != NULL; w = w->next)
		if (w->sequence == stamp.sequence)
			return RIGHT;
	return stamp.sequence < s->floor ? UNDONE : LATE;
}

static uint64_t findings[VERDICTS];

static void report(enum verdict verdict, uint32_t block, uint64_t sequence)
{
	uint64_t total = 0;

	findings[verdict]++;
	for (int v = LOST; v < VERDICTS; v++)
		total += findings[v];
	if (verdict == RIGHT || total > SHOWN_MAX)
		return;
	fprintf(stderr, "block %u: %s: holds %" PRIu64 ", must hold %" PRIu64, block, verdict_name[verdict], sequence, book.state[block].floor);
	for (const struct open_write *w = book.state[block].open; w != NULL; w = w->next)
		fprintf(stderr, " or %" PRIu64, w->sequence);
	fputc('\n', stderr);
}

static bool anything_amiss(void)
{
	for (int v = LOST; v < VERDICTS; v++)
		if (findings[v] != 0)
			return true;
	return false;
}

static void print_findings(void)
{
	for (int v = LOST; v < VERDICTS; v++)
		printf(", \"%s\": %" PRIu64, verdict_name[v], findings[v]);
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

static void busy(const struct slot *s, bool is)
{
	for (uint32_t b = s->block; b < s->block + s->count; b++)
		book.state[b].busy = is;
}

static void read_back(const struct slot *s, const struct scsi_task *task)
{
	if (task->datain.size != (int)(s->count * BLOCK))
		die(EXIT_FOUND, "a read of %u blocks at %u returned %d bytes", s->count, s->block, task->datain.size);
	for (uint32_t i = 0; i < s->count; i++) {
		uint64_t sequence;
		enum verdict verdict = judge(s->block + i, task->datain.data + (size_t)i * BLOCK, &sequence);

		report(verdict, s->block + i, sequence);
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
		record("A %" PRIu64, s->id);
		work.acknowledged++;
	} else if (status == SCSI_STATUS_GOOD && s->doing == FLUSHING) {
		record("G %" PRIu64, s->id);
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
			record("E %" PRIu64 " %s", s->id, outcome(task, buffer, sizeof(buffer)));
		fprintf(stderr, "%s at block %u: %s\n", s->doing == WRITING ? "write" : s->doing == READING ? "read" : "flush", s->block,
			outcome(task, buffer, sizeof(buffer)));
	}
	if (!work.lost) {
		busy(s, false);
		work.in_flight--;
	}
	s->doing = IDLE;
	if (task != NULL)
		scsi_free_scsi_task(task);
}

/* A free range of `count` blocks: two commands in flight never touch the same block, so that their order is known. */
static bool pick(struct random *r, uint32_t count, uint32_t *block)
{
	for (int try = 0; try < 64; try++) {
		bool free_range = true;

		*block = (uint32_t)random_below(r, book.blocks - count + 1);
		for (uint32_t b = *block; b < *block + count; b++)
			free_range = free_range && !book.state[b].busy;
		if (free_range)
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
	s->count = shape < 80 ? 1 : shape < 98 ? 1 + (uint32_t)random_below(r, 16) : 65 + (uint32_t)random_below(r, COUNT_MAX - 64);
	if (dice < 100) {
		s->doing = FLUSHING;
		s->id = book.flushes + 1;
		s->count = 0;
		record("F %" PRIu64, s->id);
		task = iscsi_synchronizecache10_task(unit.iscsi, unit.lun, 0, 0, 0, 0, done, s);
		work.flushes++;
	} else if (!pick(r, s->count, &s->block)) {
		return;
	} else if (dice % 100 < READ_PERCENT) {
		s->doing = READING;
		busy(s, true);
		task = iscsi_read16_task(unit.iscsi, unit.lun, unit_lba(s->block), s->count * BLOCK, (int)unit.block_size, 0, 0, 0, 0, 0, done, s);
		work.reads++;
	} else {
		bool fua = random_below(r, 8) == 0;

		s->doing = WRITING;
		s->id = book.sequence + 1;
		for (uint32_t i = 0; i < s->count; i++)
			stamp_make(s->data + (size_t)i * BLOCK, s->block + i, s->id);
		busy(s, true);
		record("S %" PRIu64 " %u %u", s->id, s->block, s->count);
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
		work.slot[i].data = malloc((size_t)COUNT_MAX * BLOCK);
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
		record("X");
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
			const struct block_state *s = &book.state[block];
			uint64_t sequence;
			enum verdict verdict;

			if (!s->written)
				continue;
			verdict = judge(block, task->datain.data + (size_t)i * BLOCK, &sequence);
			report(verdict, block, sequence);
			read->scan->seen++;
			if (verdict == RIGHT && s->open != NULL) {
				record("O %u %" PRIu64, block, sequence);
				read->scan->observed++;
			}
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

/* A block with a certain content, and nothing open. For `late` a newer sequence must exist, for `undone` an older one. */
static uint32_t victim(uint64_t seed, bool room_above, bool room_below)
{
	struct random r;

	random_seed(&r, seed);
	for (int try = 0; try < PLANT_TRIES; try++) {
		uint32_t block = (uint32_t)random_below(&r, book.blocks);
		const struct block_state *s = &book.state[block];

		if (s->floor != 0 && s->open == NULL && (!room_above || s->floor < book.sequence) && (!room_below || s->floor > 1))
			return block;
	}
	die(EXIT_USAGE, "the log holds no block that could be made wrong in this way");
}

static int command_plant(const char *kind, uint64_t seed)
{
	bool undone = strcmp(kind, "undone") == 0, late = strcmp(kind, "late") == 0;
	uint32_t block = victim(seed, late, undone);
	uint64_t floor = book.state[block].floor;
	uint8_t content[BLOCK] = { 0 }, other[BLOCK];

	if (undone) {
		stamp_make(content, block, floor - 1);
	} else if (late) {
		stamp_make(content, block, floor + 1);
	} else if (strcmp(kind, "torn") == 0) {
		stamp_make(content, block, floor);
		stamp_make(other, block, floor + 1);
		memcpy(content + BLOCK / 2, other + BLOCK / 2, BLOCK / 2);
	} else if (strcmp(kind, "lost") != 0) {
		die(EXIT_USAGE, "cannot plant '%s': lost, undone, torn or late", kind);
	}
	write_block(block, content);
	printf("%u\n", block);
	unit_close(&unit);
	return EXIT_FINE;
}

static int command_mend(uint32_t block)
{
	uint8_t content[BLOCK];

	if (block >= book.blocks || book.state[block].floor == 0 || book.state[block].open != NULL)
		die(EXIT_USAGE, "block %u has no certain content", block);
	stamp_make(content, block, book.state[block].floor);
	write_block(block, content);
	unit_close(&unit);
	return EXIT_FINE;
}

static void usage(void)
{
	die(EXIT_USAGE, "usage: durability write|check|plant|mend URL LOG [KIND] [--seconds S] [--depth N] [--blocks N] [--block N] [--seed N]\n"
			"                  [--need acknowledged|flushed]\n"
			"       KIND, for plant: lost, undone, torn, late");
}

int main(int argc, char **argv)
{
	const char *kind = NULL, *command;
	uint64_t timeout = TIMEOUT_S, seconds = 3600, depth = 64, blocks = 16384, block = UINT64_MAX, seed = 1;
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
	if (depth == 0 || depth > DEPTH_MAX || blocks < 2 * COUNT_MAX || blocks > UINT32_MAX || timeout == 0 || timeout > TIMEOUT_MAX_S)
		die(EXIT_USAGE, "--depth is 1 to %d, --blocks at least %d, --timeout 1 to %d", DEPTH_MAX, 2 * COUNT_MAX, TIMEOUT_MAX_S);
	timeout_s = (int)timeout;
	book_open(argv[3], strcmp(command, "write") == 0 ? (uint32_t)blocks : 0);
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
