/* When does a disk take its first write again?
 *
 *   firstwrite SECONDS URL...
 *
 * One process for each URL logs in and writes 4 KiB at the beginning of the disk, again and again until the status is GOOD or SECONDS have passed. Prints a line
 * for each URL, in the order in which they succeed: "<index> <CLOCK_MONOTONIC in seconds> <logins tried> <writes tried>". EXIT_FOUND when one does not. */
#include "common.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define INITIATOR "iqn.2026-11.io.lus.qa:firstwrite"

enum {
	SIZE = 4096, /* bytes written; a multiple of every block size */
	TIMEOUT_S = 5,
};
#define PAUSE_S 0.01

static void until_good(int index, const char *url, double seconds)
{
	double end = now_s() + seconds;
	struct target target = { .url = url, .initiator = INITIATOR, .retry_s = 0, .timeout_s = TIMEOUT_S };
	unsigned logins = 0, writes = 0;
	char why[256] = "no login";
	uint8_t data[SIZE];

	memset(data, index, sizeof(data));
	while (now_s() < end) {
		struct unit unit = { 0 };

		logins++;
		if (!unit_open(&target, &unit, why, sizeof(why))) {
			sleep_s(PAUSE_S);
			continue;
		}
		while (now_s() < end) {
			struct scsi_task *task =
				iscsi_write16_sync(unit.iscsi, unit.lun, 0, data, SIZE, (int)unit.block_size, 0, 0, 0, 0, 0);
			bool good = task != NULL && task->status == SCSI_STATUS_GOOD;
			bool lost = task == NULL || task->status >= (int)SCSI_STATUS_CANCELLED;

			writes++;
			if (task != NULL) {
				outcome(task, why, sizeof(why));
				scsi_free_scsi_task(task);
			}
			if (good) {
				char line[128];
				int size = snprintf(line, sizeof(line), "%d %.6f %u %u\n", index, now_s(), logins, writes);

				/* One write of one line: the processes share stdout. */
				if (write(STDOUT_FILENO, line, (size_t)size) != size)
					_exit(EXIT_USAGE);
				unit_close(&unit);
				_exit(EXIT_FINE);
			}
			if (lost)
				break;
			sleep_s(PAUSE_S);
		}
		iscsi_destroy_context(unit.iscsi);
	}
	fprintf(stderr, "%s: no GOOD write within %.0f s: %s\n", url, seconds, why);
	_exit(EXIT_FOUND);
}

int main(int argc, char **argv)
{
	int worst = EXIT_FINE;

	if (argc < 3)
		die(EXIT_USAGE, "usage: firstwrite SECONDS URL...");
	for (int i = 2; i < argc; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die(EXIT_USAGE, "cannot fork");
		if (pid == 0)
			until_good(i - 2, argv[i], (double)number(argv[1], "SECONDS"));
	}
	for (int i = 2; i < argc; i++) {
		int status;

		if (wait(&status) < 0 || !WIFEXITED(status))
			worst = EXIT_USAGE;
		else if (WEXITSTATUS(status) > worst)
			worst = WEXITSTATUS(status);
	}
	return worst;
}
