/* What each block of some disks may hold, kept in a log outside the gateway, and the stamps by which a block says what it does hold.
 *
 * A client appends to the log before a write is sent and after it is acknowledged. Replayed, the log is the set of sequences that each block may hold; `book_judge`
 * compares a block with it. What was read of a write whose outcome was open decides it, and may not change afterwards. Findings:
 *
 *   lost       an acknowledged block holds no stamp of this run
 *   undone     it holds an older sequence than the one that was acknowledged (or read)
 *   late       it holds a newer sequence which an earlier check had found not to have happened: a write that landed after its daemon was gone
 *   torn       its stamp does not match its content
 *   misplaced  it holds the stamp of another block, or of another unit's
 *
 * Log, one record a line:
 *   R <run> <blocks> <block size> <unit>[,<unit>...]    first line; each unit has an equal share of the blocks, one after the other
 *   S <seq> <block> <count>   submitted         A <seq>  acknowledged       E <seq> <outcome>   ended otherwise: open
 *   F <id>  flush submitted   G <id>  flush acknowledged                    O <block> <seq>     observed
 *   X  connection lost        M, V  marks of multipath.c */
#ifndef QA_BOOK_H
#define QA_BOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	BOOK_UNITS_MAX = 256,
	BOOK_BLOCK_MAX = 4096, /* bytes that carry one stamp, at most */
	BOOK_COUNT_MAX = 96,   /* blocks of the longest write: with 4096 bytes 384 KiB, past FirstBurstLength, so that R2Ts are needed */
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

/* Blocks are numbered through all units. */
extern struct book {
	int fd;
	uint64_t run;
	uint32_t blocks;             /* of all units */
	uint32_t block_size;         /* bytes that carry one stamp */
	uint32_t units, unit_blocks; /* unit_blocks: of each */
	uint32_t unit[BOOK_UNITS_MAX];
	struct block_state *state;
	struct submission *submitted; /* by sequence; [0] unused */
	uint64_t sequence, capacity;  /* the last one in use */
	uint64_t position;            /* records so far */
	uint64_t *flush_at;           /* log position at which flush i was submitted */
	uint64_t flushes, flush_capacity;
	bool need_flush; /* durable is what a later successful flush covers; else what is acknowledged */
	uint64_t acknowledged;
} book;

/* How a run is laid out; only the first of a log counts. */
struct layout {
	uint32_t unit_blocks, block_size, units;
	const uint32_t *unit; /* what a stamp calls them */
};

/* Opens the log and replays it; where there is none it begins one with this layout (NULL: it must be there). Dies where it cannot. */
void book_open(const char *path, const struct layout *layout);

/* Appends a record, before what it announces is done, and applies it. */
void book_record(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Marks a range as being in flight, or no longer. */
void book_busy(uint32_t block, uint32_t count, bool is);

/* Whether none of a range is in flight: two commands in flight never touch the same block, so that their order is known. */
bool book_idle(uint32_t block, uint32_t count);

/* The content of a block as `writer` writes it with a sequence. */
void stamp_make(uint8_t *at, uint32_t block, uint64_t sequence, uint32_t writer);

enum verdict { RIGHT, LOST, UNDONE, LATE, TORN, MISPLACED, VERDICTS };
extern const char *const verdict_name[VERDICTS];

/* Judges what block `block` holds, reports and counts it. `*sequence` is what it carries, 0 where it carries no stamp of this run. */
enum verdict book_judge(uint32_t block, const uint8_t *content, uint64_t *sequence);

/* As `book_judge`, by a reader after all writes ended: what is right decides open writes. Returns whether it did. */
bool book_decide(uint32_t block, const uint8_t *content);

bool anything_amiss(void);

/* ', "lost": 0, ...' */
void print_findings(void);

/* A block and content for it that is wrong in the way `kind` names ("lost", "undone", "late", "torn", "misplaced"). */
uint32_t book_plant(const char *kind, uint64_t seed, uint8_t *content);

/* What a block must hold; dies where that is not certain. */
void book_mend(uint32_t block, uint8_t *content);

#endif
