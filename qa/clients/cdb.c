/* One host that sends the CDBs it is told.
 *
 *   cdb URL INITIATOR
 *
 * The initiator port is the same for the same name: what is reserved belongs to it, and not to the session. Logs in once, then reads a line for each command:
 * "<CDB> [<bytes of data-in> | =<data-out>]", CDB and data in hexadecimal. Prints a line for each: "<outcome> <data-in in hexadecimal>", the outcome as in
 * common.h. EXIT_LOST when there is no session, or it has ended. */
#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	TIMEOUT_S = 60,
	RETRY_S = 30,
	CDB_MAX = 16,
	LINE_MAX_BYTES = 1 << 16,
};

/* Bytes of `text`, which is hexadecimal, into `bytes`; how many. */
static size_t unhex(const char *text, uint8_t *bytes, size_t size)
{
	size_t length = strlen(text);

	if (length % 2 != 0 || length / 2 > size)
		die(EXIT_USAGE, "%s: not at most %zu bytes in hexadecimal", text, size);
	for (size_t i = 0; i < length / 2; i++)
		if (sscanf(text + 2 * i, "%2hhx", &bytes[i]) != 1)
			die(EXIT_USAGE, "%s: not hexadecimal", text);
	return length / 2;
}

static void command(struct iscsi_context *iscsi, int lun, char *line)
{
	static uint8_t data_out[LINE_MAX_BYTES / 2];
	uint8_t cdb[CDB_MAX];
	const char *first = strtok(line, " \n"), *second = strtok(NULL, " \n");
	struct iscsi_data out = { 0 };
	struct scsi_task *task;
	char text[64];
	size_t size;

	if (first == NULL)
		die(EXIT_USAGE, "a line without a CDB");
	size = unhex(first, cdb, sizeof(cdb));
	if (second == NULL) {
		task = scsi_create_task((int)size, cdb, SCSI_XFER_NONE, 0);
	} else if (second[0] == '=') {
		out.data = data_out;
		out.size = unhex(second + 1, data_out, sizeof(data_out));
		task = scsi_create_task((int)size, cdb, SCSI_XFER_WRITE, (int)out.size);
	} else {
		task = scsi_create_task((int)size, cdb, SCSI_XFER_READ, (int)number(second, "bytes of data-in"));
	}
	if (task == NULL)
		die(EXIT_USAGE, "cannot make a task");
	if (iscsi_scsi_command_sync(iscsi, lun, task, out.size > 0 ? &out : NULL) == NULL)
		die(EXIT_LOST, "%s", iscsi_get_error(iscsi));
	if (task->status >= (int)SCSI_STATUS_CANCELLED)
		die(EXIT_LOST, "the session has ended: %s", outcome(task, text, sizeof(text)));
	printf("%s ", outcome(task, text, sizeof(text)));
	for (int i = 0; task->status == SCSI_STATUS_GOOD && i < task->datain.size; i++)
		printf("%02x", task->datain.data[i]);
	printf("\n");
	fflush(stdout);
	scsi_free_scsi_task(task);
}

int main(int argc, char **argv)
{
	static char line[LINE_MAX_BYTES];
	struct target target = { .retry_s = RETRY_S, .timeout_s = TIMEOUT_S };
	struct iscsi_context *iscsi;
	char reason[256];
	int lun;

	if (argc != 3)
		die(EXIT_USAGE, "usage: cdb URL INITIATOR");
	target.url = argv[1];
	target.initiator = argv[2];
	target.isid = crc32c(0, argv[2], strlen(argv[2])) & 0xffffff;
	iscsi = session_open(&target, &lun, reason, sizeof(reason));
	if (iscsi == NULL)
		die(EXIT_LOST, "%s", reason);
	while (fgets(line, sizeof(line), stdin) != NULL)
		command(iscsi, lun, line);
	iscsi_logout_sync(iscsi);
	iscsi_destroy_context(iscsi);
	return EXIT_FINE;
}
