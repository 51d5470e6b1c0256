/* Does an acknowledged write survive when the daemon that took it is gone and another goes on?
 *
 *   multipath write PORTAL[,PORTAL...] IQN LUN[,LUN...] LOG [--writers N] [--seconds S] [--blocks N] [--block-size BYTES] [--largest N] [--seed N] [LIMITS]
 *   multipath check PORTAL[,PORTAL...] IQN LUN[,LUN...] LOG [LIMITS]
 *   multipath plant PORTAL[,PORTAL...] IQN LUN[,LUN...] LOG lost|undone|late|torn|misplaced [--seed N] [LIMITS]
 *   multipath mend  PORTAL[,PORTAL...] IQN LUN[,LUN...] LOG --block N [LIMITS]
 *
 * It goes by several paths as dm-multipath does (paths.h), so no command fails because a path does: it is sent again by the path that is then the best one. The log
 * and what `check` finds are those of book.h; a block counts as acknowledged when any path said GOOD. `write` has N writers for each LUN, with one command each: a
 * write of 1 to 96 blocks (or to --largest), now and then a read of what must be there, or a SYNCHRONIZE CACHE. It ends after S seconds, on SIGTERM or when it is told, once all is
 * answered. `plant` makes one block wrong, past LOG, so that it can be seen that `check` would see it; `mend` rewrites it as it should be.
 *
 * Lines on stdin of `write`: `end`, or `mark NAME`. From a mark on it is watched, for each LUN, when the first GOOD comes by another path than the one that gave the
 * last GOOD before, and which was the longest time without any GOOD, while commands waited, until the next mark or the end. The log gets `M <name>`, and `V <name>
 * <lun> <ms> <portal>` for each such first GOOD, at its time, so that whoever marks can see it.
 *
 * The last line of `write` is a report: {"writes", "acknowledged", ..., "errors", "unanswered", "lost", ..., "retries": {outcome: n}, "stalls": {lun: ms}, "marks":
 * {name: {lun: ms or null}}, "mark_stalls": {name: {lun: ms}}}.
 *
 * LIMITS, in seconds; as Linux has them where nothing else is said:
 *   --patience 120           a command that no path answers for so long ends the run, with EXIT_LOST; hosts with queue_if_no_path wait for ever
 *   --give-up 30             until ABORT TASK
 *   --abort-timeout 15       until LOGICAL UNIT RESET
 *   --reset-timeout 30       until the session is dropped
 *   --replacement-timeout 5  a lost session is waited for before its commands go elsewhere (fast_io_fail_tmo)
 *   --noop 5                 a silent session is asked
 *   --noop-timeout 5         and dropped
 * --verbose tells on stderr how paths change.
 *
 * EXIT_FOUND: a block is amiss, an error that no path explains, or an answer to a command that task management had ended. */
#include "book.h"
#include "common.h"
#include "paths.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	WRITERS_MAX = 128, /* of each LUN */
	SCAN_COUNT = 64,   /* blocks that `check` reads at once */
	SCAN_DEPTH = 8,
	READ_PERCENT = 10,
	FLUSH_EVERY = 200, /* writes between two SYNCHRONIZE CACHE, on average */
	MARKS_MAX = 1024,
	NAME_SIZE = 40, /* bytes of a mark's name */
	LINE_SIZE = 128,
	SHOWN_MAX = 20, /* errors that are printed in full */
};

#define WAIT_S 60.0 /* until all LUNs can be used at first */
#define INITIATOR "iqn.2026-11.io.lus.qa:multipath"
#define NOBODY UINT32_MAX

static struct options {
	uint64_t writers, seconds, blocks, block_size, largest, seed, block, patience;
	const char *kind;
	struct paths_target target;
} options = { .writers = 4, .seconds = 3600, .blocks = 4096, .block_size = 4096, .largest = BOOK_COUNT_MAX, .seed = 1, .block = UINT64_MAX, .patience = 120 };

static volatile sig_atomic_t told_to_end;

static void on_sigterm(int signal_number)
{
	(void)signal_number;
	told_to_end = 1;
}

/* ---- time without an answer ---- */

static struct disk {
	uint32_t waiting;  /* commands */
	double quiet_since; /* the last GOOD, or the command that came after nobody waited */
	double longest;    /* seconds */
	uint32_t portal;   /* of the last GOOD */
} disk[UNITS_MAX];

static struct mark {
	char name[NAME_SIZE];
	double at;
	struct {
		uint32_t before; /* the portal of the last GOOD before it */
		double other;    /* seconds until the first GOOD by another; < 0: none yet */
		double longest;
	} of[UNITS_MAX];
} *marks[MARKS_MAX];
static size_t mark_count;

static void quiet_until(uint32_t unit, double now)
{
	struct mark *mark = mark_count == 0 ? NULL : marks[mark_count - 1];
	double since = disk[unit].quiet_since;

	if (now - since > disk[unit].longest)
		disk[unit].longest = now - since;
	if (mark == NULL)
		return;
	if (since < mark->at)
		since = mark->at;
	if (now - since > mark->of[unit].longest)
		mark->of[unit].longest = now - since;
}

static void answer_counts(uint32_t unit, uint32_t portal)
{
	double now = now_s();

	quiet_until(unit, now);
	disk[unit].quiet_since = now;
	disk[unit].portal = portal;
	for (size_t m = 0; m < mark_count; m++) {
		struct mark *mark = marks[m];

		if (mark->of[unit].other >= 0 || mark->of[unit].before == NOBODY || mark->of[unit].before == portal)
			continue;
		mark->of[unit].other = now - mark->at;
		book_record("V %s %u %.0f %s", mark->name, options.target.lun[unit], mark->of[unit].other * 1000, options.target.portal[portal]);
	}
}

static void mark_now(const char *name)
{
	double now = now_s();
	struct mark *mark = calloc(1, sizeof(*mark));

	if (mark == NULL || mark_count == MARKS_MAX)
		die(EXIT_USAGE, "too many marks");
	snprintf(mark->name, sizeof(mark->name), "%s", name);
	mark->at = now;
	for (uint32_t u = 0; u < options.target.units; u++) {
		if (disk[u].waiting > 0)
			quiet_until(u, now);
		mark->of[u].before = disk[u].portal;
		mark->of[u].other = -1;
	}
	marks[mark_count++] = mark;
	book_record("M %s", mark->name);
}

/* Lines of stdin; false at its end. */
static bool read_marks(void)
{
	static char line[LINE_SIZE];
	static size_t size;
	ssize_t got = read(STDIN_FILENO, line + size, sizeof(line) - 1 - size);
	char *end, name[NAME_SIZE];

	if (got <= 0)
		return false;
	size += (size_t)got;
	line[size] = '\0';
	while ((end = strchr(line, '\n')) != NULL) {
		*end = '\0';
		if (strcmp(line, "end") == 0)
			told_to_end = 1;
		else if (sscanf(line, "mark %39s", name) == 1)
			mark_now(name);
		else
			die(EXIT_USAGE, "stdin: '%s' is not 'mark NAME', nor 'end'", line);
		size -= (size_t)(end + 1 - line);
		memmove(line, end + 1, size + 1);
	}
	if (size == sizeof(line) - 1)
		die(EXIT_USAGE, "stdin: a line of more than %zu bytes", size);
	return true;
}

static void print_ms(double seconds)
{
	if (seconds < 0)
		printf("null");
	else
		printf("%.0f", seconds * 1000);
}

static void print_times(void)
{
	printf(", \"stalls\": {");
	for (uint32_t u = 0; u < options.target.units; u++)
		printf("%s\"%u\": %.0f", u == 0 ? "" : ", ", options.target.lun[u], disk[u].longest * 1000);
	for (int stalls = 0; stalls < 2; stalls++) {
		printf("}, \"%s\": {", stalls ? "mark_stalls" : "marks");
		for (size_t m = 0; m < mark_count; m++) {
			printf("%s\"%s\": {", m == 0 ? "" : ", ", marks[m]->name);
			for (uint32_t u = 0; u < options.target.units; u++) {
				printf("%s\"%u\": ", u == 0 ? "" : ", ", options.target.lun[u]);
				print_ms(stalls ? marks[m]->of[u].longest : marks[m]->of[u].other);
			}
			printf("}");
		}
	}
	printf("}");
}

/* ---- write ---- */

struct writer {
	struct command command; /* first, so that its callback finds the writer */
	uint32_t number, unit;
	uint64_t sequence;
	uint32_t block, count; /* through all units */
	bool busy;
	uint8_t *data;
};

static struct {
	struct writer *writer;
	uint32_t writers, in_flight;
	uint64_t writes, reads, flushes, acknowledged, errors;
} work;

static void failed(const struct writer *w)
{
	static const char *const names[] = { [DO_READ] = "read", [DO_WRITE] = "write", [DO_FLUSH] = "flush" };

	if (++work.errors > SHOWN_MAX)
		return;
	fprintf(stderr, "%s of LUN %u at block %u by %s: %s\n", names[w->command.what], options.target.lun[w->unit], w->block,
		options.target.portal[w->command.portal], w->command.outcome);
}

static void done(struct command *command)
{
	struct writer *w = (struct writer *)command;

	if (command->good) {
		answer_counts(w->unit, command->portal);
		if (command->what == DO_WRITE) {
			book_record("A %" PRIu64, w->sequence);
			work.acknowledged++;
		}
		for (uint32_t i = 0; command->what == DO_READ && i < w->count; i++) {
			uint64_t sequence;

			book_judge(w->block + i, w->data + (size_t)i * book.block_size, &sequence);
		}
	} else {
		if (command->what == DO_WRITE)
			book_record("E %" PRIu64 " %s", w->sequence, command->outcome);
		failed(w);
	}
	book_busy(w->block, w->count, false);
	w->busy = false;
	disk[w->unit].waiting--;
	work.in_flight--;
}

/* A range of `count` blocks of a unit that is idle. */
static bool pick(struct random *r, uint32_t unit, uint32_t count, uint32_t *block)
{
	for (int try = 0; try < 64; try++) {
		*block = unit * book.unit_blocks + (uint32_t)random_below(r, book.unit_blocks - count + 1);
		if (book_idle(*block, count))
			return true;
	}
	return false;
}

static void submit(struct writer *w, struct random *r)
{
	uint64_t dice = random_below(r, 100 * FLUSH_EVERY), shape = random_below(r, 100);

	w->count = shape < 80 ? 1 : shape < 98 ? 1 + (uint32_t)random_below(r, 16) : 65 + (uint32_t)random_below(r, BOOK_COUNT_MAX - 64);
	if (w->count > options.largest)
		w->count = (uint32_t)options.largest;
	if (dice < 100)
		w->count = 0;
	else if (!pick(r, w->unit, w->count, &w->block))
		return;
	w->command = (struct command){
		.what = dice < 100 ? DO_FLUSH : dice % 100 < READ_PERCENT ? DO_READ : DO_WRITE,
		.unit = w->unit,
		.offset = (uint64_t)(w->block % book.unit_blocks) * book.block_size,
		.size = w->count * book.block_size,
		.data = w->data,
		.fua = random_below(r, 8) == 0,
		.done = done,
	};
	book_busy(w->block, w->count, true);
	if (w->command.what == DO_WRITE) {
		w->sequence = book.sequence + 1;
		for (uint32_t i = 0; i < w->count; i++)
			stamp_make(w->data + (size_t)i * book.block_size, w->block + i, w->sequence, w->number);
		book_record("S %" PRIu64 " %u %u", w->sequence, w->block, w->count);
		work.writes++;
	} else if (w->command.what == DO_READ) {
		work.reads++;
	} else {
		work.flushes++;
	}
	if (disk[w->unit].waiting++ == 0)
		disk[w->unit].quiet_since = now_s();
	w->busy = true;
	work.in_flight++;
	paths_submit(&w->command);
}

/* Whether somebody has waited for longer than a host would. */
static bool out_of_patience(void)
{
	double limit = now_s() - (double)options.patience;

	for (uint32_t i = 0; i < work.writers; i++)
		if (work.writer[i].busy && work.writer[i].command.since < limit)
			return true;
	return false;
}

static void make_writers(void)
{
	work.writers = (uint32_t)options.writers * options.target.units;
	work.writer = calloc(work.writers, sizeof(*work.writer));
	if (work.writer == NULL)
		die(EXIT_USAGE, "out of memory");
	for (uint32_t i = 0; i < work.writers; i++) {
		work.writer[i].number = i;
		work.writer[i].unit = i % options.target.units;
		work.writer[i].data = malloc((size_t)BOOK_COUNT_MAX * book.block_size);
		if (work.writer[i].data == NULL)
			die(EXIT_USAGE, "out of memory");
	}
	for (uint32_t u = 0; u < options.target.units; u++)
		disk[u].portal = NOBODY;
}

static int report_writes(void)
{
	printf("{\"writes\": %" PRIu64 ", \"acknowledged\": %" PRIu64 ", \"reads\": %" PRIu64 ", \"flushes\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"unanswered\": %u",
	       work.writes, work.acknowledged, work.reads, work.flushes, work.errors, work.in_flight);
	print_findings();
	paths_print();
	print_times();
	printf("}\n");
	if (anything_amiss() || work.errors != 0 || paths_late_answers() != 0)
		return EXIT_FOUND;
	return work.in_flight != 0 ? EXIT_LOST : EXIT_FINE;
}

static int command_write(void)
{
	double end = now_s() + (double)options.seconds;
	int marks_fd = STDIN_FILENO;
	struct random r;

	random_seed(&r, options.seed ^ book.sequence);
	signal(SIGTERM, on_sigterm);
	make_writers();
	printf("writing\n");
	fflush(stdout);
	for (;;) {
		bool more = now_s() < end && !told_to_end;

		for (uint32_t i = 0; more && i < work.writers; i++)
			if (!work.writer[i].busy)
				submit(&work.writer[i], &r);
		if ((!more && work.in_flight == 0) || out_of_patience())
			break;
		if (paths_turn(100, marks_fd) && !read_marks())
			marks_fd = -1;
	}
	for (uint32_t u = 0; u < options.target.units; u++)
		if (disk[u].waiting > 0)
			quiet_until(u, now_s());
	paths_close();
	return report_writes();
}

/* ---- check, plant, mend ---- */

static struct {
	uint32_t in_flight;
	uint64_t seen, decided;
} scan;

struct scan_read {
	struct command command; /* first, so that its callback finds it */
	uint32_t block, count;
	uint8_t data[SCAN_COUNT * BOOK_BLOCK_MAX];
};

static void scanned(struct command *command)
{
	struct scan_read *read = (struct scan_read *)command;

	if (!command->good)
		die(EXIT_USAGE, "cannot read block %u: %s", read->block, command->outcome);
	for (uint32_t i = 0; i < read->count; i++) {
		if (!book.state[read->block + i].written)
			continue;
		scan.seen++;
		if (book_decide(read->block + i, read->data + (size_t)i * book.block_size))
			scan.decided++;
	}
	scan.in_flight--;
	free(read);
}

static void scan_from(uint32_t block)
{
	uint32_t left = book.unit_blocks - block % book.unit_blocks;
	struct scan_read *read = malloc(sizeof(*read));

	if (read == NULL)
		die(EXIT_USAGE, "out of memory");
	read->block = block;
	read->count = left < SCAN_COUNT ? left : SCAN_COUNT;
	read->command = (struct command){
		.what = DO_READ,
		.unit = block / book.unit_blocks,
		.offset = (uint64_t)(block % book.unit_blocks) * book.block_size,
		.size = read->count * book.block_size,
		.data = read->data,
		.done = scanned,
	};
	scan.in_flight++;
	paths_submit(&read->command);
}

static int command_check(void)
{
	double progress = now_s();
	uint32_t block = 0, in_flight = 0;

	while (block < book.blocks || scan.in_flight > 0) {
		while (block < book.blocks && scan.in_flight < SCAN_DEPTH) {
			uint32_t left = book.unit_blocks - block % book.unit_blocks;

			scan_from(block);
			block += left < SCAN_COUNT ? left : SCAN_COUNT;
		}
		in_flight = scan.in_flight;
		paths_turn(100, -1);
		if (scan.in_flight < in_flight)
			progress = now_s();
		else if (now_s() - progress > (double)options.patience)
			die(EXIT_LOST, "no answer by any path for %" PRIu64 " s", options.patience);
	}
	printf("{\"submitted\": %" PRIu64 ", \"acknowledged\": %" PRIu64 ", \"checked_blocks\": %" PRIu64 ", \"decided_blocks\": %" PRIu64, book.sequence,
	       book.acknowledged, scan.seen, scan.decided);
	print_findings();
	paths_close();
	paths_print();
	printf("}\n");
	return anything_amiss() ? EXIT_FOUND : EXIT_FINE;
}

static bool written;

static void block_written(struct command *command)
{
	if (!command->good)
		die(EXIT_USAGE, "cannot write: %s", command->outcome);
	written = true;
}

static void write_block(uint32_t block, uint8_t *content)
{
	struct command command = {
		.what = DO_WRITE,
		.unit = block / book.unit_blocks,
		.offset = (uint64_t)(block % book.unit_blocks) * book.block_size,
		.size = book.block_size,
		.data = content,
		.done = block_written,
	};
	double begun = now_s();

	paths_submit(&command);
	while (!written) {
		paths_turn(100, -1);
		if (now_s() - begun > (double)options.patience)
			die(EXIT_LOST, "no answer by any path for %" PRIu64 " s", options.patience);
	}
	paths_close();
}

static int command_plant(void)
{
	uint8_t content[BOOK_BLOCK_MAX];
	uint32_t block = book_plant(options.kind, options.seed, content);

	write_block(block, content);
	printf("%u\n", block);
	return EXIT_FINE;
}

static int command_mend(void)
{
	uint8_t content[BOOK_BLOCK_MAX];
	uint32_t block = options.block > UINT32_MAX ? UINT32_MAX : (uint32_t)options.block;

	book_mend(block, content);
	write_block(block, content);
	return EXIT_FINE;
}

/* ---- the command line ---- */

static void usage(void)
{
	die(EXIT_USAGE, "usage: multipath write|check|plant|mend PORTAL[,PORTAL...] IQN LUN[,LUN...] LOG [KIND] [--writers N] [--seconds S] [--blocks N]\n"
			"           [--block-size BYTES] [--largest N] [--seed N] [--block N] [--patience S]\n"
			"           [--give-up S] [--abort-timeout S] [--reset-timeout S] [--replacement-timeout S] [--noop S] [--noop-timeout S] [--verbose]\n"
			"       KIND, for plant: lost, undone, late, torn, misplaced");
}

static void parse_portals(char *list)
{
	struct paths_target *target = &options.target;

	for (char *word = strtok(list, ","); word != NULL; word = strtok(NULL, ",")) {
		if (target->portals == PORTALS_MAX)
			die(EXIT_USAGE, "more than %d portals", PORTALS_MAX);
		target->portal[target->portals++] = word;
	}
}

static void parse_luns(char *list)
{
	struct paths_target *target = &options.target;

	for (char *word = strtok(list, ","); word != NULL; word = strtok(NULL, ",")) {
		if (target->units == UNITS_MAX || target->units == BOOK_UNITS_MAX)
			die(EXIT_USAGE, "more than %d LUNs", UNITS_MAX);
		target->lun[target->units++] = (uint32_t)number(word, "LUN");
	}
}

static bool parse_option(const char *name, const char *value)
{
	struct limits *limits = &options.target.limits;
	const struct {
		const char *name;
		uint64_t *count;
		double *seconds;
	} known[] = {
		{ "--writers", &options.writers, NULL },
		{ "--seconds", &options.seconds, NULL },
		{ "--blocks", &options.blocks, NULL },
		{ "--block-size", &options.block_size, NULL },
		{ "--largest", &options.largest, NULL },
		{ "--seed", &options.seed, NULL },
		{ "--block", &options.block, NULL },
		{ "--patience", &options.patience, NULL },
		{ "--give-up", NULL, &limits->give_up_s },
		{ "--abort-timeout", NULL, &limits->abort_s },
		{ "--reset-timeout", NULL, &limits->reset_s },
		{ "--replacement-timeout", NULL, &limits->replacement_s },
		{ "--noop", NULL, &limits->noop_s },
		{ "--noop-timeout", NULL, &limits->noop_out_s },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (value == NULL || strcmp(name, known[i].name) != 0)
			continue;
		if (known[i].count != NULL)
			*known[i].count = number(value, name);
		else
			*known[i].seconds = (double)number(value, name);
		return true;
	}
	return false;
}

static void parse(int argc, char **argv)
{
	int i = 6;

	if (argc < i)
		usage();
	options.target.initiator = INITIATOR;
	options.target.target = argv[3];
	options.target.limits = limits_of_linux;
	parse_portals(argv[2]);
	parse_luns(argv[4]);
	if (strcmp(argv[1], "plant") == 0) {
		if (argc <= i)
			usage();
		options.kind = argv[i++];
	}
	while (i < argc) {
		if (strcmp(argv[i], "--verbose") == 0) {
			options.target.verbose = true;
			i++;
		} else if (parse_option(argv[i], argv[i + 1])) {
			i += 2;
		} else {
			usage();
		}
	}
	if (options.writers == 0 || options.writers > WRITERS_MAX || options.blocks < 2 * BOOK_COUNT_MAX || options.largest == 0 ||
	    options.blocks * options.target.units > UINT32_MAX || options.block_size > BOOK_BLOCK_MAX || options.block_size % 512 != 0 || options.block_size == 0)
		die(EXIT_USAGE, "--writers is 1 to %d, --blocks at least %d, --largest at least 1, --block-size a multiple of 512, at most %d", WRITERS_MAX, 2 * BOOK_COUNT_MAX, BOOK_BLOCK_MAX);
	if (options.target.portals == 0 || options.target.units == 0)
		usage();
}

/* The log's disks are those of the command line, and big enough. */
static void compare_with_book(const char *log)
{
	bool same = book.units == options.target.units;

	for (uint32_t u = 0; same && u < book.units; u++)
		same = book.unit[u] == options.target.lun[u];
	if (!same)
		die(EXIT_USAGE, "%s is the log of other LUNs", log);
	for (uint32_t u = 0; u < book.units; u++)
		if (book.block_size % paths_block_size(u) != 0 || paths_size(u) < (uint64_t)book.unit_blocks * book.block_size)
			die(EXIT_USAGE, "LUN %u (%" PRIu64 " bytes in blocks of %u) is too small for %u blocks of %u", options.target.lun[u], paths_size(u),
			    paths_block_size(u), book.unit_blocks, book.block_size);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} commands[] = { { "write", command_write }, { "check", command_check }, { "plant", command_plant }, { "mend", command_mend } };
	struct layout layout;

	parse(argc, argv);
	layout = (struct layout){
		.unit_blocks = (uint32_t)options.blocks, .block_size = (uint32_t)options.block_size, .units = options.target.units, .unit = options.target.lun,
	};
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		book_open(argv[5], i == 0 ? &layout : NULL);
		paths_open(&options.target, WAIT_S);
		compare_with_book(argv[5]);
		return commands[i].run();
	}
	usage();
	return EXIT_USAGE;
}
