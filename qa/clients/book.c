#include "book.h"
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	RECORD_MAX = 128, /* bytes of a record */
	PLANT_TRIES = 1000000,
	SHOWN_MAX = 20, /* findings that are printed in full */
};

#define MAGIC 0x4c55535354414d50ull /* "LUSSTAMP" */

struct stamp {
	uint64_t magic, run, sequence;
	uint32_t unit, block, writer;
	uint32_t crc; /* of the whole block with this field zero */
};

struct book book;

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
	if (sequence != book.sequence + 1 || count == 0 || count > BOOK_COUNT_MAX || block + count > book.blocks)
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
	case 'M':
	case 'V':
		return true;
	default:
		return false;
	}
}

void book_record(const char *format, ...)
{
	char line[RECORD_MAX];
	va_list args;
	int size;

	va_start(args, format);
	size = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (size < 0 || size >= (int)sizeof(line) - 1)
		die(EXIT_USAGE, "a record of %d bytes", size);
	line[size] = '\n';
	if (write(book.fd, line, (size_t)size + 1) != size + 1)
		die(EXIT_USAGE, "cannot append to the log: %s", strerror(errno));
	line[size] = '\0';
	if (!book_apply(line))
		die(EXIT_USAGE, "bad record '%s'", line);
	book.position++;
}

static void head_write(const struct layout *layout)
{
	int random_fd = open("/dev/urandom", O_RDONLY);

	if (random_fd < 0 || read(random_fd, &book.run, sizeof(book.run)) != sizeof(book.run))
		die(EXIT_USAGE, "/dev/urandom: %s", strerror(errno));
	close(random_fd);
	book.unit_blocks = layout->unit_blocks;
	book.block_size = layout->block_size;
	book.units = layout->units;
	memcpy(book.unit, layout->unit, layout->units * sizeof(*book.unit));
	dprintf(book.fd, "R %016" PRIx64 " %u %u", book.run, book.unit_blocks * book.units, book.block_size);
	for (uint32_t u = 0; u < book.units; u++)
		dprintf(book.fd, "%c%u", u == 0 ? ' ' : ',', book.unit[u]);
	dprintf(book.fd, "\n");
}

static bool head_read(FILE *in)
{
	uint32_t blocks;
	int next = ',';

	if (fscanf(in, "R %" SCNx64 " %" SCNu32 " %" SCNu32, &book.run, &blocks, &book.block_size) != 3)
		return false;
	for (; next == ','; next = fgetc(in))
		if (book.units == BOOK_UNITS_MAX || fscanf(in, "%" SCNu32, &book.unit[book.units++]) != 1)
			return false;
	book.unit_blocks = blocks / book.units;
	return next == '\n' && blocks % book.units == 0;
}

void book_open(const char *path, const struct layout *layout)
{
	FILE *in = fopen(path, "r");
	char line[RECORD_MAX];

	if (in == NULL && (errno != ENOENT || layout == NULL))
		die(EXIT_USAGE, "%s: %s", path, strerror(errno));
	book.fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
	if (book.fd < 0)
		die(EXIT_USAGE, "%s: %s", path, strerror(errno));
	if (in == NULL)
		head_write(layout);
	else if (!head_read(in) || book.block_size > BOOK_BLOCK_MAX || book.block_size < sizeof(struct stamp))
		die(EXIT_USAGE, "%s: not a log of this client", path);
	book.blocks = book.units * book.unit_blocks;
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

void book_busy(uint32_t block, uint32_t count, bool is)
{
	for (uint32_t b = block; b < block + count; b++)
		book.state[b].busy = is;
}

bool book_idle(uint32_t block, uint32_t count)
{
	for (uint32_t b = block; b < block + count; b++)
		if (book.state[b].busy)
			return false;
	return true;
}

/* ---- stamps ---- */

void stamp_make(uint8_t *at, uint32_t block, uint64_t sequence, uint32_t writer)
{
	struct stamp stamp = {
		.magic = MAGIC,
		.run = book.run,
		.sequence = sequence,
		.unit = book.unit[block / book.unit_blocks],
		.block = block % book.unit_blocks,
		.writer = writer,
	};
	struct random filler;

	random_seed(&filler, book.run ^ sequence << 24 ^ block);
	for (size_t i = 0; i < book.block_size; i += sizeof(uint64_t)) {
		uint64_t word = random_next(&filler);

		memcpy(at + i, &word, sizeof(word));
	}
	memcpy(at, &stamp, sizeof(stamp));
	stamp.crc = crc32c(0, at, book.block_size);
	memcpy(at, &stamp, sizeof(stamp));
}

const char *const verdict_name[VERDICTS] = { "right", "lost", "undone", "late", "torn", "misplaced" };

static enum verdict judge(uint32_t block, const uint8_t *content, uint64_t *sequence)
{
	const struct block_state *s = &book.state[block];
	uint8_t copy[BOOK_BLOCK_MAX];
	struct stamp stamp;
	uint32_t crc;

	*sequence = 0;
	memcpy(&stamp, content, sizeof(stamp));
	if (stamp.magic != MAGIC || stamp.run != book.run)
		return s->floor == 0 ? RIGHT : LOST;
	crc = stamp.crc;
	stamp.crc = 0;
	memcpy(copy, content, book.block_size);
	memcpy(copy, &stamp, sizeof(stamp));
	if (crc32c(0, copy, book.block_size) != crc)
		return TORN;
	if (stamp.unit != book.unit[block / book.unit_blocks] || stamp.block != block % book.unit_blocks)
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
	fprintf(stderr, "unit %u block %u: %s: holds %" PRIu64 ", must hold %" PRIu64, book.unit[block / book.unit_blocks], block % book.unit_blocks,
		verdict_name[verdict], sequence, book.state[block].floor);
	for (const struct open_write *w = book.state[block].open; w != NULL; w = w->next)
		fprintf(stderr, " or %" PRIu64, w->sequence);
	fputc('\n', stderr);
}

enum verdict book_judge(uint32_t block, const uint8_t *content, uint64_t *sequence)
{
	enum verdict verdict = judge(block, content, sequence);

	report(verdict, block, *sequence);
	return verdict;
}

bool book_decide(uint32_t block, const uint8_t *content)
{
	uint64_t sequence;

	if (book_judge(block, content, &sequence) != RIGHT || book.state[block].open == NULL)
		return false;
	book_record("O %u %" PRIu64, block, sequence);
	return true;
}

bool anything_amiss(void)
{
	for (int v = LOST; v < VERDICTS; v++)
		if (findings[v] != 0)
			return true;
	return false;
}

void print_findings(void)
{
	for (int v = LOST; v < VERDICTS; v++)
		printf(", \"%s\": %" PRIu64, verdict_name[v], findings[v]);
}

/* ---- plant and mend ---- */

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

/* A block that is not `block`: of another unit where there is one. */
static uint32_t elsewhere(uint32_t block)
{
	return (block + (book.units > 1 ? book.unit_blocks : 1)) % book.blocks;
}

uint32_t book_plant(const char *kind, uint64_t seed, uint8_t *content)
{
	bool undone = strcmp(kind, "undone") == 0, late = strcmp(kind, "late") == 0;
	uint32_t block = victim(seed, late, undone);
	uint64_t floor = book.state[block].floor;
	size_t half = book.block_size / 2;

	if (undone) {
		stamp_make(content, block, floor - 1, 0);
	} else if (late) {
		stamp_make(content, block, floor + 1, 0);
	} else if (strcmp(kind, "torn") == 0) {
		uint8_t other[BOOK_BLOCK_MAX];

		stamp_make(content, block, floor, 0);
		stamp_make(other, block, floor + 1, 0);
		memcpy(content + half, other + half, half);
	} else if (strcmp(kind, "misplaced") == 0) {
		stamp_make(content, elsewhere(block), floor, 0);
	} else if (strcmp(kind, "lost") == 0) {
		memset(content, 0, book.block_size);
	} else {
		die(EXIT_USAGE, "cannot plant '%s': lost, undone, late, torn or misplaced", kind);
	}
	return block;
}

void book_mend(uint32_t block, uint8_t *content)
{
	if (block >= book.blocks || book.state[block].floor == 0 || book.state[block].open != NULL)
		die(EXIT_USAGE, "block %u has no certain content", block);
	stamp_make(content, block, book.state[block].floor, 0);
}
